// SPDX-License-Identifier: GPL-2.0-only
/*
 * Under which lock page faults are handled: by the kernel's own counters in /proc/vmstat, of all tasks,
 * and by the acquisitions of mmap_lock of the one task that faults.
 */
#include "counter.h"
#include "parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUDGET (16UL << 20)	/* bytes that a case touches */
#define MAX_FAULTS 2000
#define HUGE_FAULTS 6
#define LARGEST_HUGE (32UL << 20)
#define FAULT_AROUND 65536	/* a read fault of a file maps what is around it */
#define WAITED_FAULTS 50	/* of userfaultfd: each needs two tasks, in turn */
#define NR_HUGEPAGES "/proc/sys/vm/nr_hugepages"
#define THP_ENABLED "/sys/kernel/mm/transparent_hugepage/enabled"

struct fault_kind {
	const char *what;
	/* Memory whose touching faults once a stride; skips, if the kernel has none of the kind. */
	char *(*prepare)(size_t *length, size_t *stride);
	bool write;
};

struct lock_counts {
	long long success, abort, retry, miss;
};

static struct lock_counts lock_counts(void)
{
	return (struct lock_counts){ kt_vmstat("vma_lock_success"), kt_vmstat("vma_lock_abort"),
				     kt_vmstat("vma_lock_retry"), kt_vmstat("vma_lock_miss") };
}

static uint64_t faults_of_task(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		kt_inconclusive("getrusage: %s", strerror(errno));
	return (uint64_t)usage.ru_minflt + (uint64_t)usage.ru_majflt;
}

static size_t pages_of(size_t length)
{
	size_t pages = length / kt_page();

	return pages > MAX_FAULTS ? MAX_FAULTS : pages;
}

/* --- kinds of memory --- */

static char *anonymous(size_t *length, size_t *stride)
{
	char *at;

	*stride = kt_page();
	*length = pages_of(BUDGET) * kt_page();
	at = kt_map(NULL, *length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* fails where there are none, and then they cannot come in between */
	madvise(at, *length, MADV_NOHUGEPAGE);
	return at;
}

static char *shmem(size_t *length, size_t *stride)
{
	*stride = kt_page();
	*length = pages_of(BUDGET) * kt_page();
	return kt_shared(*length);
}

/* What a case changes for the whole machine, and puts back. */
static struct {
	const char *path;
	char before[128];
} setting;

static void change_setting(const char *path, const char *value)
{
	if (kt_read_file(path, setting.before, sizeof(setting.before)) > 0 && !kt_write_file(path, value))
		setting.path = path;
}

static void put_back_setting(void)
{
	if (setting.path)
		kt_write_file(setting.path, setting.before);
	setting.path = NULL;
}

/* A file of a file system that is not shared memory and needs no disk; all its pages are in memory. */
static int file_of(size_t length)
{
	char folder[] = "/tmp/locking-XXXXXX", path[64], *block = calloc(1, 65536);
	int fd = -1;

	if (!block || !mkdtemp(folder))
		kt_inconclusive("no folder for a file: %s", strerror(errno));
	if (mount("ramfs", folder, "ramfs", 0, NULL)) {
		rmdir(folder);
		kt_skip("ramfs cannot be mounted: %s", strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/file", folder);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	umount2(folder, MNT_DETACH);
	rmdir(folder);
	for (size_t at = 0; at < length; at += 65536)
		if (fd < 0 || write(fd, block, 65536) != 65536)
			kt_inconclusive("no file: %s", strerror(errno));
	free(block);
	return fd;
}

static char *file(size_t *length, size_t *stride, size_t distance, int prot, int flags)
{
	char *at;
	int fd;

	*stride = distance;
	*length = BUDGET / distance > MAX_FAULTS ? MAX_FAULTS * distance : BUDGET;
	*length = (*length + 65535) / 65536 * 65536;
	fd = file_of(*length);
	at = kt_map(NULL, *length, prot, flags, fd);
	close(fd);
	return at;
}

static char *file_read(size_t *length, size_t *stride)
{
	size_t distance = kt_page() > FAULT_AROUND ? kt_page() : FAULT_AROUND;

	return file(length, stride, distance, PROT_READ, MAP_PRIVATE);
}

static char *file_cow(size_t *length, size_t *stride)
{
	return file(length, stride, kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

static char *file_shared(size_t *length, size_t *stride)
{
	return file(length, stride, kt_page(), PROT_READ | PROT_WRITE, MAP_SHARED);
}

static char *thp(size_t *length, size_t *stride)
{
	char text[64];
	size_t size;
	char *at;

	if (kt_read_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", text, sizeof(text)) <= 0)
		kt_skip("the kernel has no transparent huge pages");
	size = strtoull(text, NULL, 10);
	if (!size || size > LARGEST_HUGE)
		kt_skip("huge pages of %zu bytes are too large here", size);
	/* in a small guest the kernel switches them off by itself */
	if (kt_read_file(THP_ENABLED, text, sizeof(text)) > 0 && strstr(text, "[never]")) {
		change_setting(THP_ENABLED, "madvise");
		snprintf(setting.before, sizeof(setting.before), "never");
		if (!setting.path)
			kt_skip("transparent huge pages are switched off");
	}
	*stride = size;
	*length = HUGE_FAULTS * size;
	at = kt_map(NULL, *length + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	at += size - (uintptr_t)at % size;
	if (madvise(at, *length, MADV_HUGEPAGE)) {
		put_back_setting();
		kt_skip("transparent huge pages are refused: %s", strerror(errno));
	}
	return at;
}

static char *hugetlb(size_t *length, size_t *stride)
{
	char text[4096], before[32], wanted[32], *line;
	size_t size;
	void *at;

	if (kt_read_file("/proc/meminfo", text, sizeof(text)) <= 0)
		kt_inconclusive("/proc/meminfo cannot be read");
	line = strstr(text, "Hugepagesize:");
	if (!line || kt_read_file(NR_HUGEPAGES, before, sizeof(before)) <= 0)
		kt_skip("the kernel has no hugetlbfs");
	size = strtoull(line + strlen("Hugepagesize:"), NULL, 10) * 1024;
	if (!size || size > LARGEST_HUGE)
		kt_skip("huge pages of %zu bytes are too large here", size);
	*stride = size;
	*length = HUGE_FAULTS * size;
	snprintf(wanted, sizeof(wanted), "%d", atoi(before) + HUGE_FAULTS);
	change_setting(NR_HUGEPAGES, wanted);
	at = mmap(NULL, *length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (at == MAP_FAILED) {
		put_back_setting();
		kt_skip("no %d huge pages could be set aside: %s", HUGE_FAULTS, strerror(errno));
	}
	return at;
}

const struct fault_kind fault_anonymous = { "anonymous memory", anonymous, true };
const struct fault_kind fault_zero = { "anonymous memory, read", anonymous, false };
const struct fault_kind fault_file_read = { "a file, read", file_read, false };
const struct fault_kind fault_file_cow = { "a file, copied on write", file_cow, true };
const struct fault_kind fault_file_shared = { "a file, written", file_shared, true };
const struct fault_kind fault_shmem = { "shared memory", shmem, true };
const struct fault_kind fault_thp = { "transparent huge pages", thp, true };
const struct fault_kind fault_hugetlb = { "hugetlbfs", hugetlb, true };

/* --- counting --- */

static void take_own_lock(void *unused)
{
	(void)unused;
	munmap(kt_map(NULL, kt_page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1), kt_page());
}

/* Not inlined, and through volatile: these are faults of the user's own instructions, one a stride. */
static __attribute__((noinline)) void touch(volatile char *at, size_t length, size_t stride, bool write)
{
	for (size_t i = 0; i < length; i += stride) {
		if (write)
			at[i] = 1;
		else
			(void)at[i];
	}
}

/* The policy of this file: from 6.12 on all these kinds are faulted under per-VMA locks. */
static bool faults_lockless(void)
{
	bool has = has_vma_locks();

	if (has && !kt_kernel_since(6, 12))
		kt_skip("which faults fall back to mmap_lock before 6.12 is not known here");
	return has;
}

static void show(const struct lock_counts *before, const struct lock_counts *after, uint64_t faults,
		 bool counted, uint64_t acquisitions)
{
	if (after->success >= 0) {
		kt_figure("vma_lock_success", (double)(after->success - before->success));
		kt_figure("vma_lock_retry", (double)(after->retry - before->retry));
		kt_figure("vma_lock_abort", (double)(after->abort - before->abort));
		kt_figure("vma_lock_miss", (double)(after->miss - before->miss));
	}
	if (counted) {
		kt_figure("acquisitions", (double)acquisitions);
		kt_figure("acquisitions per fault", (double)acquisitions / (double)(faults ? faults : 1));
	}
}

/* A tenth, and two for the VMA's first fault and for one of the program's own. */
static bool many(uint64_t of, uint64_t faults)
{
	return of > faults / 10 + 2;
}

static void judge_counted(const char *what, bool lockless, uint64_t acquisitions, uint64_t faults)
{
	if (lockless && many(acquisitions, faults))
		kt_fail("%" PRIu64 " faults (%s) took mmap_lock %" PRIu64
			" times, though the VMA's lock would have done", faults, what, acquisitions);
	if (!lockless && acquisitions < faults)
		kt_fail("%" PRIu64 " faults (%s) took mmap_lock %" PRIu64
			" times, and there is no other lock", faults, what, acquisitions);
}

/* Skip, if there is nothing to judge by. */
static void need_counts(const char *lack, bool lockless, const char *name)
{
	if (lack && (!lockless || kt_vmstat(name) < 0))
		kt_skip("neither %s (CONFIG_PER_VMA_LOCK_STATS) nor mmap_lock is counted: %s", name, lack);
}

void faults_of_kind(const void *arg)
{
	const struct fault_kind *kind = arg;
	bool lockless = faults_lockless();
	uint64_t faults, acquisitions = 0;
	struct lock_counts before, after;
	struct counter counter;
	const char *lack = counter_try(&counter, "faults");
	size_t length, stride;
	char *at;

	before = lock_counts();
	if (!lockless && before.success >= 0)
		kt_fail("the kernel has no lock_vma_under_rcu(), but counts vma_lock_success");
	need_counts(lack, lockless, "vma_lock_success");
	if (!lack)
		counter_filter(&counter, "mm == 0x%" PRIx64 " && common_pid == %d",
			       counter_learn(&counter, getpid(), take_own_lock, NULL), getpid());
	at = kind->prepare(&length, &stride);
	before = lock_counts();
	if (!lack)
		counter_start(&counter);
	faults = faults_of_task();
	touch(at, length, stride, kind->write);
	faults = faults_of_task() - faults;
	if (!lack)
		acquisitions = counter_stop(&counter);
	after = lock_counts();
	munmap(at, length);
	put_back_setting();

	/* a huge page that could not be had comes as small ones: many more faults */
	if (kind == &fault_thp && faults > 2 * HUGE_FAULTS)
		kt_inconclusive("no huge pages came: %" PRIu64 " faults", faults);
	kt_work("faults", faults, length / stride * 9 / 10);
	show(&before, &after, faults, !lack, acquisitions);
	if (!lack)
		judge_counted(kind->what, lockless, acquisitions, faults);
	/* others' faults are in it as well, so that it can be more, never less */
	if (lockless && after.success >= 0 &&
	    (uint64_t)(after.success - before.success) < faults - faults / 10)
		kt_fail("%" PRIu64 " faults (%s) raised vma_lock_success by %lld only", faults, kind->what,
			after.success - before.success);
}

/* --- userfaultfd --- */

struct monitor {
	int fd;
	char *at, *source;
	size_t length;
	_Atomic int tid;
	_Atomic bool go;
	uint64_t copies;
};

static void *monitor(void *arg)
{
	struct monitor *monitor = arg;
	struct uffd_msg message;

	atomic_store(&monitor->tid, (int)syscall(SYS_gettid));
	while (monitor->copies < WAITED_FAULTS && read(monitor->fd, &message, sizeof(message)) > 0) {
		struct uffdio_copy copy = { .dst = message.arg.pagefault.address & ~(kt_page() - 1),
					    .src = (uintptr_t)monitor->source, .len = kt_page() };

		if (message.event != UFFD_EVENT_PAGEFAULT)
			continue;
		/* -EAGAIN: the address space is changing; nothing changes it here for long */
		while (ioctl(monitor->fd, UFFDIO_COPY, &copy))
			if (errno != EAGAIN)
				kt_inconclusive("UFFDIO_COPY: %s", strerror(errno));
		monitor->copies++;
	}
	return NULL;
}

static void arm(struct monitor *monitor)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t stride;

	monitor->fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (monitor->fd < 0 && errno == ENOSYS)
		kt_skip("the kernel has no userfaultfd");
	if (monitor->fd < 0 || ioctl(monitor->fd, UFFDIO_API, &api))
		kt_skip("userfaultfd is refused: %s", strerror(errno));
	monitor->source = kt_map(NULL, kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memset(monitor->source, 1, kt_page());
	monitor->at = anonymous(&monitor->length, &stride);
	monitor->length = WAITED_FAULTS * kt_page();
	range.range.start = (uintptr_t)monitor->at;
	range.range.len = monitor->length;
	if (ioctl(monitor->fd, UFFDIO_REGISTER, &range))
		kt_inconclusive("UFFDIO_REGISTER: %s", strerror(errno));
}

void faults_userfaultfd(const void *unused)
{
	static struct monitor state;
	bool lockless = faults_lockless();
	struct counter toucher, copier;
	const char *lack = counter_try(&toucher, "toucher");
	uint64_t faults, acquisitions = 0, copying = 0, mm = 0;
	struct lock_counts before, after;
	pthread_t thread;

	(void)unused;
	need_counts(lack, lockless, "vma_lock_retry");
	if (!lack)
		mm = counter_learn(&toucher, getpid(), take_own_lock, NULL);
	arm(&state);
	if (pthread_create(&thread, NULL, monitor, &state))
		kt_inconclusive("no thread");
	while (!atomic_load(&state.tid))
		kt_sleep_ns(100000);
	if (!lack) {
		counter_open(&copier, "copier");
		counter_filter(&toucher, "mm == 0x%" PRIx64 " && common_pid == %d", mm, getpid());
		counter_filter(&copier, "mm == 0x%" PRIx64 " && common_pid == %d", mm,
			       atomic_load(&state.tid));
		counter_start(&copier);
		counter_start(&toucher);
	}
	before = lock_counts();
	faults = faults_of_task();
	touch(state.at, state.length, kt_page(), true);
	faults = faults_of_task() - faults;
	after = lock_counts();
	pthread_join(thread, NULL);
	if (!lack) {
		acquisitions = counter_stop(&toucher);
		copying = counter_stop(&copier);
	}

	kt_work("copies", state.copies, WAITED_FAULTS);
	kt_work("faults", faults, WAITED_FAULTS * 9 / 10);
	show(&before, &after, faults, !lack, acquisitions);
	if (!lack)
		kt_figure("acquisitions per UFFDIO_COPY", (double)copying / (double)state.copies);
	if (!lack && !lockless)
		judge_counted("that waited for userfaultfd", false, acquisitions, state.copies);
	if (!lockless)
		return;
	/* it waits with no lock at all, and comes back by mmap_lock: that counts as a retry */
	if (after.retry >= 0 &&
	    (uint64_t)(after.retry - before.retry) < state.copies - state.copies / 10)
		kt_fail("%" PRIu64 " faults that waited for userfaultfd raised vma_lock_retry by %lld only: "
			"they did not begin under the VMA's lock", state.copies, after.retry - before.retry);
	if (!lack && many(copying, state.copies))
		kt_fail("%" PRIu64 " UFFDIO_COPY took mmap_lock %" PRIu64
			" times, though the VMA's lock would have done", state.copies, copying);
}
