/* SPDX-License-Identifier: Apache-2.0 */
/* What the node says of itself: /health, for health checks. ?status=503: that, from now on;
 * &everywhere=1: all other pages say it too. */

import javax.servlet.annotation.WebServlet;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;

@WebServlet("/health")
public class HealthServlet extends HttpServlet {
    private static final String STATUS = "xb.status";
    private static final String EVERYWHERE = "xb.everywhere";

    @Override
    protected void doGet(HttpServletRequest request, HttpServletResponse response) {
        if (request.getParameter("status") != null) {
            System.setProperty(STATUS, request.getParameter("status"));
            System.setProperty(EVERYWHERE,
                String.valueOf(request.getParameter("everywhere") != null));
        }
        response.setStatus(Integer.getInteger(STATUS, HttpServletResponse.SC_OK));
    }

    /** What this page is answered with, whoever asks for it; 0: nothing special. */
    static int statusFor(String path) {
        return Boolean.getBoolean(EVERYWHERE) && !"/health".equals(path)
            ? Integer.getInteger(STATUS, 0) : 0;
    }
}
