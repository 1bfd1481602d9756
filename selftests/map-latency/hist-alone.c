// SPDX-License-Identifier: GPL-2.0-only
/* For a build by hand, from this folder's sources only: what library = true adds to them otherwise. */
#if !__has_include(<hist.h>)
#include "../lib/hist.c"
#endif
