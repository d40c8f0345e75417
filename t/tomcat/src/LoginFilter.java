/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks: the user lives in the session, as in Spring Security, and all paths look there. */

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import javax.servlet.FilterChain;
import javax.servlet.ServletException;
import javax.servlet.annotation.WebFilter;
import javax.servlet.http.HttpFilter;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;

@WebFilter("/*")
public class LoginFilter extends HttpFilter {
    @Override
    protected void doFilter(HttpServletRequest request, HttpServletResponse response,
        FilterChain chain) throws IOException, ServletException {
        String path = request.getServletPath();
        int status = HealthServlet.statusFor(path);
        if (status != 0) {
            response.setStatus(status);
            return;
        }
        HttpSession session = request.getSession(false);
        Object user = session == null ? null : session.getAttribute(Node.USER);
        if (user == null)
            user = basic(request);
        response.setHeader("X-XB-Node", Node.ROUTE);
        if (user != null)
            response.setHeader("X-XB-User", user.toString());
        if (user != null || !(path.startsWith("/app") || path.startsWith("/data"))) {
            chain.doFilter(request, response);
            return;
        }
        if (path.startsWith("/data"))
            response.setHeader("WWW-Authenticate", "Basic realm=\"xb\"");
        response.setStatus(HttpServletResponse.SC_UNAUTHORIZED);
        Node.answer(request, response, "error", "no login");
    }

    private static String basic(HttpServletRequest request) {
        String header = request.getHeader("Authorization");
        if (header == null || !header.startsWith("Basic "))
            return null;
        String[] parts = new String(Base64.getDecoder().decode(header.substring(6).trim()),
            StandardCharsets.UTF_8).split(":", 2);
        return parts.length == 2 && login(request, parts[0], parts[1]) ? parts[0] : null;
    }

    /** The password is "pw-" and the user's name. A session from before gets a new id. */
    static boolean login(HttpServletRequest request, String user, String password) {
        if (user == null || !("pw-" + user).equals(password))
            return false;
        if (request.getSession(false) != null)
            request.changeSessionId();
        request.getSession(true).setAttribute(Node.USER, user);
        return true;
    }
}
