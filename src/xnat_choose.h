/* SPDX-License-Identifier: Apache-2.0 */
/* Which sessions leave a draining or an overloaded node. Mover thread only. */
#ifndef XNAT_CHOOSE_H
#define XNAT_CHOOSE_H

#include <stdint.h>

/* The lease has just been taken. */
void xnat_choose_begin(void);
void xnat_choose_run(int64_t now_us);

#endif
