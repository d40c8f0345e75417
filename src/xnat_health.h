/* SPDX-License-Identifier: Apache-2.0 */
/* Which members have lately answered HEADs of this process (the child with the lease sends
 * them). Any thread; a guess that overwrites another's is as good. */
#ifndef XNAT_HEALTH_H
#define XNAT_HEALTH_H

#include <stdbool.h>

void xnat_health_answered(unsigned member);
/* It may be well for all that is known: the next session asks first. */
void xnat_health_doubt(unsigned member);
/* It did not answer what it answers quickly if it is well. */
void xnat_health_silent(unsigned member);

/* Within the last five seconds it has answered, and not failed to since. */
bool xnat_health_is_well(unsigned member);
/* Within the last five seconds it was silent, and has not answered since. */
bool xnat_health_is_silent(unsigned member);

#endif
