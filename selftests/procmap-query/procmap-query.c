// SPDX-License-Identifier: GPL-2.0-only
#include "cases.h"
#include "race_modifiers.h"

#define OTHER ((const void *)"another process")

static const struct kt_case cases[] = {
	{ "answers.known", "What was mapped is told as it was mapped", answers_known, NULL, 0, 0 },
	{ "answers.lines", "Each line of one's own maps is found at its first, middle and last byte",
	  answers_lines, NULL, 0, 0 },
	{ "answers.lines-of-another", "Each line of another process's maps is too", answers_lines, OTHER, 0, 0 },
	{ "answers.walk", "From one end to the next come the lines, filtered or not, in order, then ENOENT",
	  answers_walk, NULL, 0, 0 },
	{ "answers.walk-of-another", "The same of another process", answers_walk, OTHER, 0, 0 },
	{ "answers.filters", "Each of 64 combinations of flags finds, at each border, what passes and else nothing",
	  answers_filters, NULL, 0, 0 },
	{ "answers.borders", "Below the first, in each gap and above the last there is nothing, and next is next",
	  answers_borders, NULL, 0, 0 },
	{ "answers.page-size", "The page size of each mapping is that of smaps", answers_page_size, NULL, 0, 0 },
	{ "answers.vdso", "The vdso is found by its address, with its name and no file", answers_vdso, NULL, 0, 0 },
	{ "answers.gate", "The gate area is in maps and in no answer", answers_gate, NULL, 0, 0 },
	{ "answers.empty", "A process without any mapping has no answers", answers_empty, NULL, 0, 0 },

	{ "names.buffers", "Each name fits where it fits to the byte, and is refused where it does not",
	  names_buffers, NULL, 0, 0 },
	{ "names.none", "Without a name its size is 0 and no buffer is written", names_none, NULL, 0, 0 },
	{ "names.long", "Paths of up to PATH_MAX are told whole", names_long, NULL, 0, 0 },

	{ "build-id.own", "The build-id of this program is the one in its file", build_id_own, NULL, 0, 0 },
	{ "build-id.lengths", "Ids of 1 to 20 bytes fit where they fit to the byte", build_id_lengths, NULL, 0, 0 },
	{ "build-id.places", "An id is found behind other notes and segments, and across pages", build_id_places,
	  NULL, 0, 0 },
	{ "build-id.none", "What has no build-id is answered, with a size of 0", build_id_none, NULL, 0, 0 },

	{ "arguments.size", "Shorter and longer structures work, those too short or with unknown content do not",
	  arguments_size, NULL, 0, 0 },
	{ "arguments.flags", "Unknown flags are EINVAL, in the upper half too", arguments_flags, NULL, 0, 0 },
	{ "arguments.buffers", "A buffer has an address and a size, or neither", arguments_buffers, NULL, 0, 0 },
	{ "arguments.pointers", "Odd addresses work, bad ones are EFAULT", arguments_pointers, NULL, 0, 0 },
	{ "arguments.command", "Other commands are ENOTTY", arguments_command, NULL, 0, 0 },

	{ "life.file", "A file answers for the process it was opened for, whoever asks, between reads too",
	  life_file, NULL, 0, 0 },
	{ "life.ended", "After exit and exec of the process it is ESRCH for ever", life_ended, NULL, 0, 0 },
	{ "life.ending", "Until then every answer is right", life_ending, NULL, 0.5, 0 },
	{ "life.locks", "Failed queries keep no lock and no address space", life_locks, NULL, 0, 0 },
	{ "life.references", "Failed queries keep no file open", life_references, NULL, 0, 0 },
	{ "life.memory", "Failed queries keep no memory", life_memory, NULL, 0, 0 },

	{ "race.threads", "Many threads on one file each get their own answer", race_quiet, NULL, 0.4, 0 },
	{ "race.readers", "They do while others read that file, who get the right text", race_quiet, OTHER, 0.4,
	  0 },
	{ "race.split", "While mprotect splits and joins a mapping an answer is of before or after", race_changes,
	  &modify_split, 0.6, 0 },
	{ "race.front", "The same while others are mapped over its front and end", race_changes,
	  &modify_front, 0.6, 0 },
	{ "race.replace", "The same while other files take its place: never one's name with the other's id",
	  race_changes, &modify_replace, 0.6, 0 },
	{ "race.boundary", "The same while the boundary between two moves: never a start with another's offset",
	  race_changes, &modify_boundary, 0.6, 0 },
	{ "race.name", "The same while names come and go", race_changes, &modify_name, 0.6, 0 },
	{ "race.hole", "The same while a hole between two is filled and cut", race_changes, &modify_hole, 0.4, 0 },
};

int main(int argc, char **argv)
{
	return kt_main(argc, argv, "procmap-query", cases, KT_ARRAY(cases));
}
