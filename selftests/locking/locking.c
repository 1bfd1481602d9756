// SPDX-License-Identifier: GPL-2.0-only
#include "counter.h"
#include "parts.h"
#include "target.h"

#include <inttypes.h>
#include <sys/uio.h>
#include <unistd.h>

#define VMAS 1000
#define PASSES 5
#define SMALL_CHUNK 512
#define PACE_VMAS 32		/* that are read between two paced changes */
#define LEAST_PER_WRITER 8	/* VMAs read, so that a kernel that always falls back shows */
#define LEAST_WRITERS 50
/* The last kernel whose smaps_rollup is known to be right when it takes mmap_lock. */
#define ROLLUP_MAJOR 7
#define ROLLUP_MINOR 3

static void let_it_lock(void *arg)
{
	target_tell(arg, TARGET_LOCK);
	if (!target_done(arg, "by nobody else's doing"))
		kt_inconclusive("the target does not answer");
}

/* Reading another's memory takes its mmap_lock on every kernel: what shows that the count counts. */
static void control(struct counter *counter, const struct target *target)
{
	char path[64], byte;
	struct iovec local = { &byte, 1 }, remote = { (void *)target->region, 1 };
	uint64_t entry;
	FILE *pagemap;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", target->pid);
	counter_start(counter);
	process_vm_readv(target->pid, &local, 1, &remote, 1, 0);
	pagemap = fopen(path, "re");
	if (pagemap) {
		if (fread(&entry, sizeof(entry), 1, pagemap) != 1)
			entry = 0;
		fclose(pagemap);
	}
	if (!counter_stop(counter))
		kt_inconclusive("the count does not show a lock that was surely taken");
}

static void quiet(const void *arg)
{
	const struct subject *subject = arg;
	bool lockless = subject_lockless(subject);
	struct counter counter;
	struct target target;
	struct reader reader;
	uint64_t whole, small, reads;

	target_start(&target, VMAS);
	reader_open(&reader, subject, target.pid, reader_whole_chunk());
	counter_open(&counter, "reader");
	counter_filter(&counter, "mm == 0x%" PRIx64 " && common_pid == %d",
		       counter_learn(&counter, target.pid, let_it_lock, &target), getpid());
	control(&counter, &target);

	counter_start(&counter);
	for (int i = 0; i < PASSES; i++)
		reader_pass(&reader);
	whole = counter_stop(&counter);
	reads = reader.reads;
	/* many a read() begins inside a VMA then; without per-VMA locks not each one needs the lock */
	reader.chunk = SMALL_CHUNK;
	counter_start(&counter);
	reader_pass(&reader);
	small = counter_stop(&counter);
	reader_close(&reader);

	kt_work("passes", reader.passes, PASSES + 1);
	kt_work("reads", reads, subject == &subject_rollup ? PASSES : 2 * PASSES);
	kt_figure("acquisitions per read", (double)whole / (double)reads);
	kt_figure("acquisitions per pass", (double)whole / PASSES);
	kt_figure("acquisitions per pass of small reads", (double)small);
	if (lockless) {
		if (whole || small)
			kt_fail("%s took the target's mmap_lock %" PRIu64 " times in %" PRIu64
				" reads, and %" PRIu64 " times in a pass of small ones, though nobody "
				"changed the address space", subject->what, whole, reads, small);
	} else if (whole < reads) {
		if (subject == &subject_rollup && kt_kernel_since(ROLLUP_MAJOR, ROLLUP_MINOR + 1))
			kt_inconclusive("%s took mmap_lock %" PRIu64 " times in %" PRIu64 " reads: this "
					"suite does not know a kernel that may", subject->what, whole, reads);
		kt_fail("%s took the target's mmap_lock %" PRIu64 " times in %" PRIu64 " reads: with nothing "
			"else to hold, each should have", subject->what, whole, reads);
	}
}

/* The VMAs of a target that rests, and what they are in the reader's unit. */
static double units_per_vma(struct reader *reader, int pid)
{
	struct reader walk;
	double vmas = 0;
	ssize_t got;

	if (reader->subject->query)
		return 1;
	if (!reader_try(&walk, &subject_maps, pid, reader_whole_chunk()))
		kt_inconclusive("maps cannot be opened");
	while ((got = read(walk.fd, walk.buffer, walk.chunk)) > 0)
		for (ssize_t i = 0; i < got; i++)
			vmas += walk.buffer[i] == '\n';
	reader_close(&walk);
	reader_pass(reader);
	return (double)reader->bytes / vmas;
}

/*
 * A lookup that fails tells that a writer held mmap_lock meanwhile; by the time the reader has mmap_lock
 * instead, that writer is gone, and the next failure needs another one. So there cannot be more fallbacks
 * than writers, whoever is faster. The paced writer makes that sharp: VMAs pass by many to a change.
 */
static void contended(const struct subject *subject, enum target_command command)
{
	bool paced = command == TARGET_PACED;
	struct counter by_reader, by_writers;
	uint64_t mm, fallbacks, writers, since;
	struct target target;
	struct reader reader;
	double unit, vmas;

	if (!subject_lockless(subject))
		kt_skip("this kernel has no per-VMA locks for %s to fall back from", subject->what);
	target_start(&target, VMAS);
	reader_open(&reader, subject, target.pid, reader_whole_chunk());
	counter_open(&by_reader, "reader");
	counter_open(&by_writers, "writers");
	mm = counter_learn(&by_reader, target.pid, let_it_lock, &target);
	counter_filter(&by_reader, "mm == 0x%" PRIx64 " && common_pid == %d", mm, getpid());
	counter_filter(&by_writers, "mm == 0x%" PRIx64 " && write == 1", mm);
	control(&by_reader, &target);
	unit = units_per_vma(&reader, target.pid);

	reader.passes = reader.reads = reader.bytes = 0;
	reader.progress = &target.shared->progress;
	atomic_store(&target.shared->step, (uint64_t)(PACE_VMAS * unit));
	counter_start(&by_writers);
	counter_start(&by_reader);
	target_tell(&target, command);
	if (paced)
		kt_pin(0);
	/* what came before took its time, and a slow guest may need longer to show anything */
	since = kt_now_ns();
	do
		reader_pass(&reader);
	while (kt_now_ns() - since < (uint64_t)(kt_seconds() * (double)KT_NSEC) ||
	       (atomic_load(&target.shared->changes) < LEAST_WRITERS &&
		kt_now_ns() - since < (uint64_t)(patience_s() * (double)KT_NSEC)));
	fallbacks = counter_stop(&by_reader);
	if (!target_stop(&target, "while it was read"))
		return;
	writers = counter_stop(&by_writers);
	reader_close(&reader);

	vmas = (double)reader.bytes / unit;
	kt_work("passes", reader.passes, 1);
	kt_work("VMAs", (uint64_t)vmas, VMAS);
	kt_work("writers", writers, LEAST_WRITERS);
	if (paced)
		kt_work("VMAs per writer", (uint64_t)(vmas / (double)(writers ? writers : 1)),
			LEAST_PER_WRITER);
	kt_figure("fallbacks", (double)fallbacks);
	kt_figure("fallbacks per pass", (double)fallbacks / (double)reader.passes);
	kt_figure("fallbacks per writer", (double)fallbacks / (double)(writers ? writers : 1));
	/* one of them may have had the lock when the count began, and one when it ended */
	if (fallbacks > writers + 2)
		kt_fail("%s fell back to mmap_lock %" PRIu64 " times, though only %" PRIu64
			" writers could have been in the way", subject->what, fallbacks, writers);
}

static void contended_paced(const void *arg)
{
	contended(arg, TARGET_PACED);
}

static void contended_storm(const void *arg)
{
	contended(arg, TARGET_STORM);
}

#define QUIET(kind) quiet, &subject_##kind, 0, 0
#define CONTENDED(kind) contended_paced, &subject_##kind, 0.3, 60
#define FAULTS(kind) faults_of_kind, &fault_##kind, 0, 0
#define KILLED(kind) killed_contended, &subject_##kind, 0.3, 60

static const struct kt_case cases[] = {
	{ "maps.quiet", "maps of a resting process takes no mmap_lock with per-VMA locks (6.17), else one a "
	  "read", QUIET(maps) },
	{ "maps.contended", "reading maps falls back to mmap_lock once a writer at most", CONTENDED(maps) },
	{ "maps.storm", "the same while several writers never rest", contended_storm, &subject_maps, 0.3,
	  60 },
	{ "smaps.quiet", "smaps of a resting process takes no mmap_lock (7.2)", QUIET(smaps) },
	{ "smaps.contended", "reading smaps falls back once a writer at most", CONTENDED(smaps) },
	{ "numa_maps.quiet", "numa_maps of a resting process takes no mmap_lock (7.2)", QUIET(numa_maps) },
	{ "numa_maps.contended", "reading numa_maps falls back once a writer at most", CONTENDED(numa_maps) },
	{ "query.quiet", "PROCMAP_QUERY of a resting process takes no mmap_lock (6.18)", QUIET(query) },
	{ "query.contended", "PROCMAP_QUERY falls back once a writer at most", CONTENDED(query) },
	{ "smaps_rollup.quiet", "smaps_rollup takes mmap_lock, with per-VMA locks and without",
	  QUIET(rollup) },
	{ "faults.anonymous", "writing to new anonymous memory faults under per-VMA locks, not mmap_lock",
	  FAULTS(anonymous) },
	{ "faults.zero", "the same of reading it", FAULTS(zero) },
	{ "faults.file-read", "the same of reading a file's pages", FAULTS(file_read) },
	{ "faults.file-cow", "the same of writing to private copies of them", FAULTS(file_cow) },
	{ "faults.file-shared", "the same of writing to the file's own", FAULTS(file_shared) },
	{ "faults.shmem", "the same of writing to shared memory", FAULTS(shmem) },
	{ "faults.thp", "the same of transparent huge pages", FAULTS(thp) },
	{ "faults.hugetlb", "the same of pages of hugetlbfs", FAULTS(hugetlb) },
	{ "faults.userfaultfd", "a fault that waits for userfaultfd begins under a per-VMA lock; UFFDIO_COPY "
	  "takes no other", faults_userfaultfd, NULL, 0, 0 },
	{ "holders.killed", "a reader that is killed inside a read leaves no lock: the next writer goes on",
	  holders_killed, NULL, 0.5, 60 },
	{ "holders.killed-query", "the same of PROCMAP_QUERY among writers; and the reader is gone soon",
	  KILLED(query) },
	{ "holders.killed-smaps_rollup", "the same of smaps_rollup", KILLED(rollup) },
	{ "holders.closed", "a file that is closed after part of it was read leaves no lock", holders_closed,
	  NULL, 0, 60 },
	{ "holders.held", "a reader that stopped after 100 bytes blocks no writer", holders_held, NULL, 0,
	  60 },
	{ "holders.in-copy", "nor does one that hangs where the kernel copies to it", holders_in_copy, NULL,
	  0, 60 },
	{ "holders.no-d-state", "none of all those tasks stays in uninterruptible sleep", holders_no_d_state,
	  NULL, 0, 60 },
	/* a group of their own, so that it can be run apart: README.md, "A word on the console" */
	{ "killed.maps", "a reader of maps that is killed among writers is gone soon, and leaves no lock",
	  KILLED(maps) },
	{ "killed.smaps", "the same of smaps", KILLED(smaps) },
	{ "killed.numa_maps", "the same of numa_maps", KILLED(numa_maps) },
	{ "killed.no-d-state", "none of those tasks stays in uninterruptible sleep", holders_no_d_state, NULL,
	  0, 60 },
};

int main(int argc, char **argv)
{
	int status = kt_main(argc, argv, "locking", cases, KT_ARRAY(cases));

	counters_remove();
	return status;
}
