/* SPDX-License-Identifier: Apache-2.0 */
/* The front page, which makes a session for each visitor as XNAT does, and the login form. */

import java.io.IOException;
import javax.servlet.annotation.WebServlet;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;
import javax.servlet.http.HttpSession;

@WebServlet({"", "/login"})
public class FrontServlet extends HttpServlet {
    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        HttpSession session = request.getSession(true);
        if (session.getAttribute("visits") == null)
            session.setAttribute("visits", 1);
        Node.answer(request, response, "form", request.getContextPath() + "/login");
    }

    @Override
    protected void doPost(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        boolean good = LoginFilter.login(request, request.getParameter("user"),
            request.getParameter("password"));
        if (!good)
            response.setStatus(HttpServletResponse.SC_UNAUTHORIZED);
        Node.answer(request, response, "login", good);
    }
}
