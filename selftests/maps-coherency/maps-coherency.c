// SPDX-License-Identifier: GPL-2.0-only
#include "race.h"

#include <stdlib.h>
#include <string.h>

#define RACE(name, seconds, proves, ...) \
	{ name, proves, race, &(const struct race){ __VA_ARGS__ }, seconds, 0 }
#define OF(...) .kinds = { __VA_ARGS__ }
#define MIXED_KINDS \
	OF(&split_upper, &split_lower, &shrink_front, &grow, &boundary, &merge_both, &merge_hole, \
	   &fixed_over, &move, &shared_file)
/* the first lines only, as fast as can be: the flaw needs luck */
#define FIRST_LINES .how = HEAD, .cells = 1, .judge_behind = true

static const struct kt_case cases[] = {
	{ "checker.sees", "texts that no right kernel writes are noticed, and right ones are not",
	  checker_case, NULL, 0, 0 },

	/* one way of modifying each, read in pieces of 64 KiB */
	RACE("maps.split-upper", 0.25,
	     "a split that leaves the structure with the upper part hides nothing before it", OF(&split_upper)),
	RACE("maps.split-middle", 0.25, "so a split in three", OF(&split_middle)),
	RACE("maps.shrink-front", 0.25,
	     "a mapping that begins later than when it was found hides none before it", OF(&shrink_front)),
	RACE("maps.grow", 0.25, "mremap() in place shows the old length or the new one", OF(&grow)),
	RACE("maps.move", 0.25, "mremap() to elsewhere shows old place or new, and no neighbour suffers",
	     OF(&move)),
	RACE("maps.keep-move", 0.25, "MREMAP_DONTUNMAP leaves the old place mapped all the time",
	     OF(&keep_move)),
	RACE("maps.boundary", 0.25, "a boundary that moves between neighbours is at the old place or the new",
	     OF(&boundary)),
	RACE("maps.merge-left", 0.25, "a merge with the left neighbour hides nothing before it",
	     OF(&merge_left)),
	RACE("maps.merge-right", 0.25, "so with the right neighbour", OF(&merge_right)),
	RACE("maps.merge-both", 0.25, "so with both", OF(&merge_both)),
	RACE("maps.merge-hole", 0.25, "so for a new mapping that fills a hole", OF(&merge_hole)),
	RACE("maps.merge-over", 0.25, "so for a new mapping over an existing one", OF(&merge_over)),
	RACE("maps.advise", 0.25, "so where madvise() splits and merges", OF(&advise)),
	RACE("maps.name", 0.25, "a name is the old one or the new one", OF(&name_piece)),
	RACE("maps.file", 0.25, "offset, device, inode and name of private and shared files fit together",
	     OF(&private_file, &shared_file)),
	RACE("maps.huge", 0.25, "mappings of huge pages, split and replaced", OF(&huge)),
	RACE("maps.thp", 0.25, "splits through transparent huge pages", OF(&thp)),
	RACE("maps.stack", 0.25, "a stack that grows by faults ends where it ended", OF(&stack)),
	RACE("maps.fixed-over", 0.25, "MAP_FIXED over several mappings leaves no hole at the beginning",
	     OF(&fixed_over)),
	RACE("maps.replace", 0.25, "so MREMAP_FIXED; with per-VMA locks holes are counted, not judged",
	     OF(&replace)),

	/* all mixed, read in each way */
	RACE("reads.page", 0.4, "reads of one page", .how = PAGE, MIXED_KINDS),
	RACE("reads.bytes", 0.4, "reads of one byte: never a torn line", .how = BYTES, MIXED_KINDS),
	RACE("reads.pieces", 0.4, "reads of 1 byte to 64 KiB", .how = PIECES, MIXED_KINDS),
	RACE("reads.pread", 0.4, "the same by pread()", .how = PREAD, MIXED_KINDS),
	RACE("reads.seek", 0.4, "from the middle of a line on, by lseek()", .how = SEEK, MIXED_KINDS),
	RACE("reads.many", 0.4, "40 changing places, several buffers of lines", .cells = 40, MIXED_KINDS),
	RACE("reads.threads", 0.4, "three threads that modify, two that read", .modifiers = 3, .readers = 2,
	     .how = PIECES, MIXED_KINDS),
	RACE("reads.self", 0.4, "a process that reads its own file while another thread of it modifies",
	     .self = true, .how = PIECES, MIXED_KINDS),
	RACE("reads.task", 0.4, "/proc/PID/task/TID/maps", .task = true, .how = PIECES, MIXED_KINDS),

	RACE("smaps.shrink-front", 0.4, "as for maps, and each record is of one state", .view = SMAPS,
	     OF(&shrink_front)),
	RACE("smaps.split-lower", 0.4, "what lies behind a mapping that became shorter is shown",
	     .view = SMAPS, OF(&split_lower)),
	RACE("smaps.boundary", 0.4, "what a boundary moves over is shown", .view = SMAPS, OF(&boundary)),
	RACE("smaps.mixed", 0.5, "all mixed, in pieces of any length", .view = SMAPS, .how = PIECES,
	     MIXED_KINDS),
	RACE("smaps.threads", 0.5, "three threads that modify, two that read, below task/TID",
	     .view = SMAPS, .how = PIECES, .modifiers = 3, .readers = 2, .task = true, MIXED_KINDS),

	RACE("numa_maps.bind", 0.4, "a policy is the old one or the new one", .view = NUMA_MAPS,
	     OF(&bind_piece)),
	RACE("numa_maps.shrink-front", 0.4,
	     "a mapping that begins later than when it was found hides none before it", .view = NUMA_MAPS,
	     OF(&shrink_front)),
	RACE("numa_maps.mixed", 0.4, "all mixed, in pieces of any length", .view = NUMA_MAPS, .how = PIECES,
	     MIXED_KINDS),

	RACE("smaps_rollup.mixed", 0.4, "one record, over all that stays mapped, with all pages that stay",
	     .view = ROLLUP, MIXED_KINDS),

	RACE("query.shrink-front", 0.3, "a walk by PROCMAP_QUERY leaves out nothing that stays mapped",
	     .view = QUERY, OF(&shrink_front)),
	RACE("query.boundary", 0.3, "so where a boundary moves", .view = QUERY, OF(&boundary)),
	RACE("query.split-lower", 0.3, "so behind a mapping that became shorter", .view = QUERY,
	     OF(&split_lower)),
	RACE("query.mixed", 0.5, "all mixed, by two threads", .view = QUERY, .readers = 2, MIXED_KINDS),

	{ "target.fork", "fork() leaves no trace in its parent's file", fork_case, NULL, 0.4, 0 },
	{ "target.exec", "a file shows one address space, that for which it was opened", exec_case, NULL,
	  0.4, 0 },
	{ "target.exit", "of a killed target a file shows all, or a part that ends with a line", exit_case,
	  NULL, 0.4, 0 },
	{ "target.threads", "so of one whose thread, by whose file it is read, ends", threads_case, NULL,
	  0.4, 0 },

	/* known to fail with per-VMA locks from 6.17 on: see known.toml */
	RACE("gaps.split-lower", 1.0, "what lies behind a mapping that became shorter is shown", FIRST_LINES,
	     OF(&split_lower)),
	RACE("gaps.merge-behind", 1.0, "what a mapping just shown is merged with is shown", FIRST_LINES,
	     OF(&split_upper)),
	RACE("gaps.boundary", 1.0, "what a boundary moves over is shown", FIRST_LINES, OF(&boundary)),
	RACE("gaps.one-split", 1.0, "so if a pass meets one split, or the merge that undoes it", FIRST_LINES,
	     .one_step = true, OF(&split_lower)),
	RACE("gaps.one-merge", 1.0, "so if a pass meets one merge, or the split that undoes it", FIRST_LINES,
	     .one_step = true, OF(&split_upper)),
};

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "--be-the-target"))
		return exec_target(atoi(argv[2]));
	return kt_main(argc, argv, "maps-coherency", cases, KT_ARRAY(cases));
}
