/* SPDX-License-Identifier: Apache-2.0 */
/* What a logged-in user clicks: /app/whoami, count, write, read, size, slow, image, logout; and
 * what is bad for a session: /app/rotate, age, spoil. */

import java.io.IOException;
import java.io.ObjectOutputStream;
import java.io.Serializable;
import java.util.Collections;
import java.util.Random;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import javax.servlet.annotation.WebServlet;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;

@WebServlet("/app/*")
public class AppServlet extends HttpServlet {
    private static final String WRITE = "w.";
    private static final String MAP = "map";
    /* Serialises the changes that read what they write: counter and map. */
    private static final Object CHANGE = new Object();

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        HttpSession session = request.getSession(true);
        switch (String.valueOf(request.getPathInfo())) {
        case "/whoami":
            Node.work(Node.number(request, "ms", 0) * 1000);
            Node.answer(request, response);
            break;
        case "/count":
            Node.answer(request, response, "count", count(session));
            break;
        case "/write":
            Node.work(Node.number(request, "ms", 0) * 1000);
            write(session, request.getParameter("k"), request.getParameter("in"));
            Node.answer(request, response, "k", request.getParameter("k"));
            break;
        case "/read":
            Node.answer(request, response, "keys", keys(session),
                "count", session.getAttribute("count"));
            break;
        case "/size":
            size(session, (int) Node.number(request, "kb", 0));
            Node.answer(request, response, "kb", Node.number(request, "kb", 0));
            break;
        case "/slow":
            slow(request, session);
            Node.answer(request, response);
            break;
        case "/image":
            image(request, response);
            break;
        case "/rotate":
            request.changeSessionId();
            if (request.getParameter("bare") == null)
                session.setAttribute("rotated", System.nanoTime());
            Node.answer(request, response);
            break;
        case "/age":
            session.setMaxInactiveInterval((int) Node.number(request, "s", 1800));
            session.setAttribute("age", System.nanoTime());
            Node.answer(request, response);
            break;
        case "/spoil":
            session.setAttribute("spoiled", "fails".equals(request.getParameter("how"))
                ? new Failing() : new Broken());
            Node.answer(request, response);
            break;
        case "/logout":
            session.invalidate();
            Node.answer(request, response, "logout", true);
            break;
        default:
            response.sendError(HttpServletResponse.SC_NOT_FOUND);
        }
    }

    /** Is written down in part, to a stream that cannot be read then. */
    private static final class Broken implements Serializable {
        private static final long serialVersionUID = 1;
        private final Object part = new Object();
    }

    /** Ends the attempt to store the session. */
    private static final class Failing implements Serializable {
        private static final long serialVersionUID = 1;

        private void writeObject(ObjectOutputStream out) {
            throw new IllegalStateException("not to be stored");
        }
    }

    private static int count(HttpSession session) {
        synchronized (CHANGE) {
            Integer before = (Integer) session.getAttribute("count");
            int now = before == null ? 1 : before + 1;
            session.setAttribute("count", now);
            return now;
        }
    }

    /** One attribute for each key; with in=map all in one ConcurrentHashMap, as in XNAT. */
    static void write(HttpSession session, String key, String in) {
        if (!MAP.equals(in)) {
            session.setAttribute(WRITE + key, key);
            return;
        }
        synchronized (CHANGE) {
            ConcurrentHashMap<String, String> map = map(session);
            map.put(key, key);
            session.setAttribute(MAP, map);
        }
    }

    @SuppressWarnings("unchecked")
    private static ConcurrentHashMap<String, String> map(HttpSession session) {
        Object map = session.getAttribute(MAP);
        return map == null ? new ConcurrentHashMap<>()
            : (ConcurrentHashMap<String, String>) map;
    }

    private static TreeSet<String> keys(HttpSession session) {
        TreeSet<String> keys = new TreeSet<>(map(session).keySet());
        for (String name : Collections.list(session.getAttributeNames()))
            if (name.startsWith(WRITE))
                keys.add(name.substring(WRITE.length()));
        return keys;
    }

    private static void size(HttpSession session, int kb) {
        byte[] ballast = new byte[kb * 1024];
        new Random().nextBytes(ballast);
        session.setAttribute("ballast", ballast);
    }

    private static void slow(HttpServletRequest request, HttpSession session)
        throws IOException {
        String key = request.getParameter("write");
        boolean end = "end".equals(request.getParameter("at"));
        if (key != null && !end)
            write(session, key, request.getParameter("in"));
        try {
            Thread.sleep(Node.number(request, "ms", 1000));
        } catch (InterruptedException e) {
            throw new IOException(e);
        }
        if (key != null && end)
            write(session, key, request.getParameter("in"));
    }

    private static void image(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        byte[] image = new byte[(int) Node.number(request, "n", 20_000)];
        new Random(Node.number(request, "i", 0)).nextBytes(image);
        Node.work(Node.number(request, "ms", 10) * 1000);
        Node.transfer(image.length);
        response.setContentType("image/png");
        response.setContentLength(image.length);
        response.getOutputStream().write(image);
    }
}
