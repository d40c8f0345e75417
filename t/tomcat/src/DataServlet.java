/* SPDX-License-Identifier: Apache-2.0 */
/* XNAT's REST side: /data/JSESSION, uploads to /data/services/import, /data/bytes downloads; and
 * /data/pace, which makes the node x times as slow. */

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import javax.servlet.annotation.WebServlet;
import javax.servlet.http.HttpServlet;
import javax.servlet.http.HttpServletRequest;
import javax.servlet.http.HttpServletResponse;

@WebServlet("/data/*")
public class DataServlet extends HttpServlet {
    private static final int CHUNK = 64 * 1024;

    @Override
    protected void service(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        switch (String.valueOf(request.getPathInfo())) {
        case "/JSESSION":
            response.setContentType("text/plain");
            response.getOutputStream().print(request.getSession(true).getId());
            break;
        case "/services/import":
            upload(request, response);
            break;
        case "/pace":
            System.setProperty("xb.pace", Long.toString(Node.number(request, "x", 1)));
            Node.answer(request, response);
            break;
        case "/bytes":
            download(request, response);
            break;
        default:
            response.sendError(HttpServletResponse.SC_NOT_FOUND);
        }
    }

    private static void upload(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        MessageDigest sha;
        try {
            sha = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IOException(e);
        }
        byte[] chunk = new byte[CHUNK];
        long bytes = 0;
        InputStream in = request.getInputStream();
        for (int n; (n = in.readNBytes(chunk, 0, CHUNK)) > 0; bytes += n) {
            sha.update(chunk, 0, n);
            Node.transfer(n);
        }
        /* Only now: before the body is read, one of form type would be taken for parameters. */
        String key = request.getParameter("write");
        if (key != null)
            AppServlet.write(request.getSession(true), key, request.getParameter("in"));
        Node.answer(request, response, "bytes", bytes,
            "sha256", HexFormat.of().formatHex(sha.digest()));
    }

    /** n bytes, spread over ms milliseconds; chunked=1 leaves out Content-Length. */
    private static void download(HttpServletRequest request, HttpServletResponse response)
        throws IOException {
        long left = Node.number(request, "n", 0);
        long pause = Node.number(request, "ms", 0) * CHUNK / Math.max(left, CHUNK);
        if (request.getParameter("chunked") == null)
            response.setContentLengthLong(left);
        response.setContentType("application/octet-stream");
        OutputStream out = response.getOutputStream();
        byte[] chunk = new byte[CHUNK];
        for (; left > 0; left -= CHUNK) {
            int n = (int) Math.min(left, CHUNK);
            Node.transfer(n);
            out.write(chunk, 0, n);
            out.flush();
            try {
                Thread.sleep(pause);
            } catch (InterruptedException e) {
                throw new IOException(e);
            }
        }
    }
}
