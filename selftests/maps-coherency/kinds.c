// SPDX-License-Identifier: GPL-2.0-only
/* What modifiers do: each kind one way in which an address space changes, and all that may be seen of it. */
#include "race.h"

#include <sys/mman.h>

#define KIND(name_, pages_, layout_, ...) \
	{ .name = name_, .pages = pages_, .layout = layout_, .steps = { __VA_ARGS__ } }

/* mprotect() gives the new structure the lower part, and the old one becomes shorter from its front. */
const struct kind split_upper = KIND("split-upper", 4, "04w",
	{ PROTECT, 2, 4, 'r', "02w 24r" },
	{ PROTECT, 2, 4, 'w', "04w" });

/* ... but here the old one keeps the lower part. */
const struct kind split_lower = KIND("split-lower", 3, "03w",
	{ PROTECT, 0, 1, 'r', "01r 13w" },
	{ PROTECT, 0, 1, 'w', "03w" });

const struct kind split_middle = KIND("split-middle", 6, "06w",
	{ PROTECT, 2, 4, 'r', "02w 24r 46w" },
	{ PROTECT, 2, 4, 'w', "06w" });

/* What the reader found becomes shorter from its front, and there is another one before it then. */
const struct kind shrink_front = KIND("shrink-front", 6, "06w",
	{ PROTECT, 5, 6, 'r', "05w 56r" },
	{ PROTECT, 5, 6, 'w', "06w" },
	{ PROTECT, 3, 6, 'r', "03w 36r" },
	{ PROTECT, 3, 6, 'w', "06w" },
	{ PROTECT, 1, 6, 'r', "01w 16r" },
	{ PROTECT, 1, 6, 'w', "06w" },
	{ UNMAP, 0, 2, 0, "26w" },
	{ MAP, 0, 2, 'r', "02r 26w" },
	{ PROTECT, 0, 2, 'w', "06w" });

const struct kind grow = KIND("grow", 6, "01w",
	{ RESIZE, 0, 1, 3, "03w" },
	{ RESIZE, 0, 3, 6, "06w" },
	{ RESIZE, 0, 6, 2, "02w" },
	{ RESIZE, 0, 2, 1, "01w" });

const struct kind move = KIND("move", 6, "02w",
	{ MOVE, 0, 2, 4, "46w" },
	{ MOVE, 4, 6, 2, "24w" },
	{ MOVE, 2, 4, 0, "02w" });

const struct kind keep_move = KIND("keep-move", 6, "02w",
	{ KEEP_MOVE, 0, 2, 4, "02w 46w" },
	{ TOUCH, 0, 1, 0, "02w 46w" },
	{ UNMAP, 4, 6, 0, "02w" });

const struct kind boundary = KIND("boundary", 8, "04w 48r",
	{ PROTECT, 4, 5, 'w', "05w 58r" },
	{ PROTECT, 5, 7, 'w', "07w 78r" },
	{ PROTECT, 2, 7, 'r', "02w 28r" },
	{ PROTECT, 1, 2, 'r', "01w 18r" },
	{ PROTECT, 1, 4, 'w', "04w 48r" });

const struct kind merge_left = KIND("merge-left", 6, "02w 24r 46x",
	{ PROTECT, 2, 4, 'w', "04w 46x" },
	{ PROTECT, 2, 4, 'r', "02w 24r 46x" });

const struct kind merge_right = KIND("merge-right", 6, "02x 24r 46w",
	{ PROTECT, 2, 4, 'w', "02x 26w" },
	{ PROTECT, 2, 4, 'r', "02x 24r 46w" });

const struct kind merge_both = KIND("merge-both", 6, "02w 24r 46w",
	{ PROTECT, 2, 4, 'w', "06w" },
	{ PROTECT, 2, 4, 'x', "02w 24x 46w" },
	{ PROTECT, 2, 4, 'r', "02w 24r 46w" });

/* A new mapping in a hole joins its left neighbour, its right one, both. */
const struct kind merge_hole = KIND("merge-hole", 6, "02w 46w",
	{ MAP, 2, 3, 'w', "03w 46w" },
	{ UNMAP, 2, 3, 0, "02w 46w" },
	{ MAP, 3, 4, 'w', "02w 36w" },
	{ UNMAP, 3, 4, 0, "02w 46w" },
	{ MAP, 2, 4, 'w', "06w" },
	{ UNMAP, 2, 4, 0, "02w 46w" });

/* A new mapping takes the place of another one, and joins its neighbours. */
const struct kind merge_over = KIND("merge-over", 6, "02w 24r 46w",
	{ MAP, 2, 4, 'w', "06w" },
	{ MAP, 2, 4, 'r', "02w 24r 46w" },
	{ MAP, 2, 3, 'w', "03w 34r 46w" },
	{ MAP, 3, 4, 'w', "06w" },
	{ MAP, 2, 4, 'r', "02w 24r 46w" });

const struct kind advise = KIND("advise", 6, "06w",
	{ ADVISE, 2, 4, MADV_DONTFORK, "02w 24w 46w" },
	{ ADVISE, 2, 4, MADV_DOFORK, "06w" },
	{ ADVISE, 0, 2, MADV_DONTDUMP, "02w 26w" },
	{ ADVISE, 0, 2, MADV_DODUMP, "06w" },
	{ ADVISE, 4, 6, MADV_RANDOM, "04w 46w" },
	{ ADVISE, 4, 6, MADV_NORMAL, "06w" },
	{ ADVISE, 0, 6, MADV_DONTNEED, "06w" },
	{ TOUCH, 0, 1, 0, "06w" });

const struct kind name_piece = KIND("name", 6, "06wa",
	{ NAME, 0, 6, 'b', "06wb" },
	{ NAME, 2, 4, 'a', "02wb 24wa 46wb" },
	{ NAME, 2, 4, 0, "02wb 24w 46wb" },
	{ NAME, 2, 6, 'b', "06wb" },
	{ NAME, 0, 2, 'a', "02wa 26wb" },
	{ NAME, 2, 6, 'a', "06wa" });

#define FILE_STEPS \
	{ PROTECT, 2, 4, 'r', "02w 24r 46w" }, \
	{ PROTECT, 2, 6, 'w', "06w" }, \
	{ MAP, 4, 6, 'r', "04w 46r" }, \
	{ PROTECT, 4, 6, 'w', "06w" }, \
	{ UNMAP, 0, 1, 0, "16w" }, \
	{ MAP, 0, 1, 'w', "06w" }

const struct kind private_file = {
	.name = "private-file", .backing = PRIVATE_FILE, .pages = 6, .layout = "06w", .steps = { FILE_STEPS } };
const struct kind shared_file = {
	.name = "shared-file", .backing = SHARED_FILE, .pages = 6, .layout = "06w", .steps = { FILE_STEPS } };

const struct kind huge = { .name = "huge", .backing = HUGE, .pages = 4, .layout = "04w", .steps = {
	{ PROTECT, 2, 4, 'r', "02w 24r" },
	{ PROTECT, 0, 1, 'r', "01r 12w 24r" },
	{ MAP, 0, 4, 'w', "04w" } } };

const struct kind thp = { .name = "thp", .backing = THP, .pages = 4, .layout = "04w", .steps = {
	{ PROTECT, 1, 4, 'r', "01w 14r" },
	{ PROTECT, 1, 4, 'w', "04w" },
	{ PROTECT, 0, 3, 'r', "03r 34w" },
	{ PROTECT, 0, 3, 'w', "04w" },
	{ ADVISE, 0, 4, MADV_DONTNEED, "04w" },
	{ TOUCH, 0, 1, 0, "04w" } } };

/* Page 0 is what lies below a stack and keeps no distance, because nobody may touch it. */
const struct kind stack = { .name = "stack", .backing = STACK, .pages = 8, .layout = "01n 78w", .steps = {
	{ TOUCH, 6, 7, 0, "01n 68w" },
	{ TOUCH, 3, 4, 0, "01n 38w" },
	{ TOUCH, 2, 3, 0, "01n 28w" },
	{ UNMAP, 2, 7, 0, "01n 78w" } } };

const struct kind fixed_over = KIND("fixed-over", 8, "02w 24r 46w 68x",
	{ MAP, 1, 7, 'r', "01w 17r 78x" },
	{ MAP, 1, 2, 'w', "02w 27r 78x" },
	{ MAP, 6, 7, 'x', "02w 26r 68x" },
	{ MAP, 4, 6, 'w', "02w 24r 46w 68x" },
	{ MAP, 0, 8, 'r', "08r" },
	{ MAP, 0, 2, 'w', "02w 28r" },
	{ MAP, 4, 6, 'w', "02w 24r 46w 68r" },
	{ MAP, 6, 8, 'x', "02w 24r 46w 68x" });

/* mremap() unmaps what is in its way before it puts the new mapping there. */
const struct kind replace = {
	.name = "replace", .pages = 5, .holes = true, .layout = "02w 23r 35x", .steps = {
	{ KEEP_MOVE, 0, 2, 3, "02w 23r 35w" },
	{ MAP, 3, 5, 'x', "02w 23r 35x" } } };

const struct kind bind_piece = KIND("bind", 6, "06w",
	{ BIND, 2, 4, 1, "02w 24wB 46w" },
	{ BIND, 2, 4, 0, "06w" },
	{ BIND, 0, 6, 1, "06wB" },
	{ BIND, 0, 6, 0, "06w" });
