/* SPDX-License-Identifier: Apache-2.0 */
/* What a Tomcat is to the tests: its route, how much it can do at once, the form of answers. */

import java.io.IOException;
import java.util.Collection;
import java.util.concurrent.Semaphore;
import java.util.stream.Collectors;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;

final class Node {
    static final String ROUTE = System.getProperty("xb.route", "none");
    static final String USER = "user";
    private static final long MBYTES_PER_S = Long.getLong("xb.mbps", 0);
    /* One for the whole JVM: each context loads this class anew, so it is kept outside. */
    private static final Semaphore PERMITS = (Semaphore) System.getProperties().computeIfAbsent(
        "xb.semaphore", k -> new Semaphore(Integer.getInteger("xb.permits", 100_000), true));

    private Node() {
    }

    /** Occupies one of the node's permits, after a fair wait: a full node is a slow one. */
    static void work(long us) throws IOException {
        if (us <= 0)
            return;
        us *= Integer.getInteger("xb.pace", 1);
        try {
            PERMITS.acquire();
            try {
                Thread.sleep(us / 1000, (int) (us % 1000) * 1000);
            } finally {
                PERMITS.release();
            }
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
    }

    /** The work of moving bytes: none unless xb.mbps (MB per second and permit) is set. */
    static void transfer(long bytes) throws IOException {
        if (MBYTES_PER_S > 0)
            work(bytes / MBYTES_PER_S);
    }

    static long number(HttpServletRequest request, String name, long otherwise) {
        String text = request.getParameter(name);
        return text == null ? otherwise : Long.parseLong(text);
    }

    /** Every answer names node, user and session: a test sees one meant for somebody else. */
    static void answer(HttpServletRequest request, HttpServletResponse response,
        Object... pairs) throws IOException {
        HttpSession session = request.getSession(false);
        StringBuilder out = new StringBuilder("{\"node\":").append(json(ROUTE));
        Object user = session == null ? null : session.getAttribute(USER);
        String id = session == null ? null : session.getId();
        out.append(",\"user\":").append(json(user)).append(",\"id\":").append(json(id));
        for (int i = 0; i < pairs.length; i += 2)
            out.append(',').append(json(pairs[i])).append(':').append(json(pairs[i + 1]));
        response.setContentType("application/json");
        byte[] body = out.append("}\n").toString().getBytes("UTF-8");
        response.setContentLength(body.length);
        response.getOutputStream().write(body);
    }

    private static String json(Object value) {
        if (value == null || value instanceof Number || value instanceof Boolean)
            return String.valueOf(value);
        if (value instanceof Collection)
            return ((Collection<?>) value).stream().map(Node::json)
                .collect(Collectors.joining(",", "[", "]"));
        StringBuilder out = new StringBuilder("\"");
        for (char c : value.toString().toCharArray())
            if (c < ' ' || c == '"' || c == '\\')
                out.append(String.format("\\u%04x", (int) c));
            else
                out.append(c);
        return out.append('"').toString();
    }
}
