/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker of the mover does with a session whose gate a request has shut (rules 10 to
 * 12): its home cannot serve, or nobody remembers where it lives. */
#ifndef XNAT_RESCUE_H
#define XNAT_RESCUE_H

#include "xnat_steps.h"

/* Both fill m->to and m->fresh with the home and id to go on with. XB_REFUSALS: commit that;
 * another: the gate opens where it was. */
xb_refusal_t xnat_rescue(xnat_steps_t *m);
xb_refusal_t xnat_rescue_look_up(xnat_steps_t *m);

/* The home has restarted, or was given up in vain: one HEAD with the newest id makes it load
 * the session, alone; without an answer a rescue. As above; m->to may be the home. */
xb_refusal_t xnat_rescue_revive(xnat_steps_t *m);

#endif
