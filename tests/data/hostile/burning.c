// SPDX-License-Identifier: GPL-2.0-only
/* Cases of one program, of which one burns and one takes the guest down. */
#include "kt.h"

static void good(const void *arg)
{
	(void)arg;
	kt_work("done", 1, 1);
}

static void burns(const void *arg)
{
	kt_write_file("/dev/kmsg", "<4>WARNING: mm/mmap_lock.c:1 at lock_next_vma+0x1/0x2, CPU#0: burning/1\n");
	good(arg);
}

static void dies(const void *arg)
{
	(void)arg;
	kt_write_file("/proc/sysrq-trigger", "c");
}

static const struct kt_case cases[] = {
	{ .name = "fire.before", .proves = "nothing", .run = good },
	{ .name = "fire.burns", .proves = "nothing", .run = burns },
	{ .name = "fire.after", .proves = "nothing", .run = good },
	{ .name = "end.dies", .proves = "nothing", .run = dies },
	{ .name = "end.late", .proves = "nothing", .run = good },
};

int main(int argc, char **argv)
{
	return kt_main(argc, argv, "burning", cases, KT_ARRAY(cases));
}
