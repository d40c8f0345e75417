/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions that die of disuse after xb.max_inactive seconds: web.xml knows minutes only. */

import javax.servlet.annotation.WebListener;
import javax.servlet.http.HttpSessionEvent;
import javax.servlet.http.HttpSessionListener;

@WebListener
public class AgeListener implements HttpSessionListener {
    @Override
    public void sessionCreated(HttpSessionEvent event) {
        Integer seconds = Integer.getInteger("xb.max_inactive");
        if (seconds != null)
            event.getSession().setMaxInactiveInterval(seconds);
    }
}
