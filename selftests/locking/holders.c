// SPDX-License-Identifier: GPL-2.0-only
/* No lock outlives the one who took it: what becomes of writers when readers are killed, stop, or hang. */
#include "parts.h"
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define VMAS 400
#define READERS 2
#define PART 100		/* bytes of a partial read */
#define LEAST_ROUNDS 4

/* What a reader tells, in memory that it shares. */
struct word {
	_Atomic uint64_t progress;
	_Atomic int hangs, lacks;
};

static struct word *new_word(void)
{
	return kt_shared(sizeof(struct word));
}

static double ms(uint64_t ns)
{
	return (double)ns / 1e6;
}

/* Whether the file is there is asked once, so that readers need not. */
static bool is_there(const struct subject *subject, int pid)
{
	struct reader reader;

	if (!reader_try(&reader, subject, pid, PART))
		return false;
	reader_close(&reader);
	return true;
}

static pid_t start_reader(const struct subject *subject, int pid, struct word *word)
{
	pid_t child = kt_fork();

	if (!child) {
		struct reader reader;

		/* all on one: readers on every CPU may stop the machine, see ../progress/README.md */
		kt_pin(0);
		if (!reader_try(&reader, subject, pid, reader_whole_chunk()))
			_exit(1);
		reader.progress = &word->progress;
		for (;;)
			reader_pass(&reader);
	}
	return child;
}

/* Kill it; the time until it is gone. False, and a failure, if it does not go. */
static bool end_reader(pid_t child, const struct subject *subject, uint64_t *took)
{
	uint64_t since = kt_now_ns(), until = since + (uint64_t)(patience_s() * (double)KT_NSEC);
	int status;

	kill(child, SIGKILL);
	while (waitpid(child, &status, WNOHANG) != child) {
		if (kt_now_ns() >= until) {
			kt_fail("a reader of %s was killed and is still there after %.0f s", subject->what,
				patience_s());
			target_describe(child);
			return false;
		}
		kt_sleep_ns(100000);
	}
	*took = kt_now_ns() - since;
	if (WIFEXITED(status))
		kt_inconclusive("a reader of %s ended by itself", subject->what);
	return true;
}

/* Every VMA of the target is write-locked and released; how long that took. */
static bool sweep(struct target *target, const char *while_what, uint64_t *longest)
{
	uint64_t since = kt_now_ns();

	target_tell(target, TARGET_SWEEP);
	if (!target_done(target, while_what))
		return false;
	if (kt_now_ns() - since > *longest)
		*longest = kt_now_ns() - since;
	return true;
}

/* Until the reader is in the midst of it, plus a little that differs. */
static bool let_read(struct word *word, uint64_t before, struct kt_rng *rng)
{
	uint64_t until = kt_now_ns() + (uint64_t)(patience_s() * (double)KT_NSEC);

	while (atomic_load(&word->progress) == before) {
		if (kt_now_ns() >= until)
			return false;
		kt_sleep_ns(50000);
	}
	kt_sleep_ns(kt_below(rng, 1000000));
	return true;
}

/* Readers of one kind after the other, until the time is over and each had its turn. */
static void killed(const struct subject *const *subjects, size_t nr, bool contended)
{
	struct word *word = new_word();
	struct kt_rng rng = { kt_seed() };
	uint64_t kills = 0, slowest_exit = 0, slowest_sweep = 0, took;
	struct target target;

	target_start(&target, VMAS);
	if (contended)
		target_tell(&target, TARGET_STORM);
	for (unsigned int i = 0; !kt_over() || i < LEAST_ROUNDS * nr; i++) {
		const struct subject *subject = subjects[i % nr];
		uint64_t before = atomic_load(&word->progress);
		pid_t children[READERS];
		char what[80];

		if (!is_there(subject, target.pid)) {
			if (nr == 1)
				kt_skip("the kernel has no %s", subject->what);
			continue;
		}
		for (int r = 0; r < READERS; r++)
			children[r] = start_reader(subject, target.pid, word);
		if (!let_read(word, before, &rng)) {
			kt_fail("no reader of %s got anything for %.0f s", subject->what, patience_s());
			return;
		}
		for (int r = 0; r < READERS; r++) {
			if (!end_reader(children[r], subject, &took))
				return;
			if (took > slowest_exit)
				slowest_exit = took;
			kills++;
		}
		snprintf(what, sizeof(what), "after readers of %s were killed", subject->what);
		if (contended ? !target_changes(&target, what) : !sweep(&target, what, &slowest_sweep))
			return;
	}
	if (contended && !target_stop(&target, "after readers were killed"))
		return;
	if (!sweep(&target, "after readers were killed", &slowest_sweep))
		return;
	kt_work("kills", kills, READERS * LEAST_ROUNDS);
	if (contended)
		kt_work("changes", atomic_load(&target.shared->changes), 2 * LEAST_ROUNDS);
	kt_figure("slowest exit, ms", ms(slowest_exit));
	kt_figure("slowest sweep, ms", ms(slowest_sweep));
}

void holders_killed(const void *unused)
{
	(void)unused;
	killed(round_subjects, ROUND_SUBJECTS, false);
}

void killed_contended(const void *arg)
{
	const struct subject *subject = arg;

	killed(&subject, 1, true);
}

/* A file of which the part up to a VMA that depends on the number is read; queries are asked up to there. */
static bool read_part(struct reader *reader, const struct subject *subject, int pid, unsigned int number)
{
	uint64_t at = 0;

	if (!reader_try(reader, subject, pid, PART))
		return false;
	for (unsigned int i = 0; i <= number; i++) {
		struct procmap_query query = { .size = sizeof(query), .query_addr = at,
					       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA };

		if (subject->query ? ioctl(reader->fd, PROCMAP_QUERY, &query) :
				     read(reader->fd, reader->buffer, PART) <= 0)
			break;
		at = query.vma_end;
		reader->reads++;
	}
	return true;
}

#define PARTIAL 16

void holders_closed(const void *unused)
{
	uint64_t reads = 0, slowest = 0, kinds = 0;
	struct target target;

	(void)unused;
	target_start(&target, VMAS);
	for (unsigned int s = 0; s < ROUND_SUBJECTS; s++) {
		char what[80];

		snprintf(what, sizeof(what), "after %s was read in part and closed", round_subjects[s]->what);
		for (unsigned int i = 0; i < PARTIAL; i++) {
			struct reader reader;

			if (!read_part(&reader, round_subjects[s], target.pid, i * i))
				break;
			reads += reader.reads;
			reader_close(&reader);
			kinds |= 1U << s;
			if (i % 4 == 3 && !sweep(&target, what, &slowest))
				return;
		}
	}
	kt_work("kinds of file", (uint64_t)__builtin_popcountll(kinds), 2);
	kt_work("reads", reads, 2 * PARTIAL);
	kt_figure("slowest sweep, ms", ms(slowest));
}

void holders_held(const void *unused)
{
	static struct reader readers[ROUND_SUBJECTS * PARTIAL];
	uint64_t slowest = 0, held = 0, reads = 0;
	struct target target;

	(void)unused;
	target_start(&target, VMAS);
	for (unsigned int i = 0; i < KT_ARRAY(readers); i++) {
		unsigned int part = i / ROUND_SUBJECTS;

		if (!read_part(&readers[i], round_subjects[i % ROUND_SUBJECTS], target.pid, part * part))
			continue;
		held++;
		reads += readers[i].reads;
	}
	for (int i = 0; i < 4; i++)
		if (!sweep(&target, "while files are open of which a part was read", &slowest))
			return;
	target_tell(&target, TARGET_STORM);
	for (int i = 0; i < 4; i++)
		if (!target_changes(&target, "while files are open of which a part was read"))
			return;
	if (!target_stop(&target, "while files are open of which a part was read"))
		return;
	kt_work("files held open", held, 2 * PARTIAL);
	kt_work("reads", reads, 2 * PARTIAL);
	kt_work("changes", atomic_load(&target.shared->changes), 16);
	kt_figure("slowest sweep, ms", ms(slowest));
}

/* --- a reader that hangs inside the kernel, where that copies to memory which userfaultfd never gives --- */

struct trap {
	int fd;
	struct word *word;
};

static _Noreturn void *tell_when_hanging(void *arg)
{
	struct trap *trap = arg;
	struct uffd_msg message;

	if (read(trap->fd, &message, sizeof(message)) == sizeof(message))
		atomic_store(&trap->word->hangs, 1);
	for (;;)
		pause();
}

static _Noreturn void hang(const struct subject *subject, int pid, struct word *word)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct trap trap = { .word = word };
	struct reader reader;
	pthread_t thread;
	char *page;

	page = kt_map(NULL, kt_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	range.range.start = (uintptr_t)page;
	range.range.len = kt_page();
	trap.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	if (trap.fd < 0 || ioctl(trap.fd, UFFDIO_API, &api) || ioctl(trap.fd, UFFDIO_REGISTER, &range)) {
		atomic_store(&word->lacks, errno ? errno : ENOSYS);
		_exit(1);
	}
	if (!reader_try(&reader, subject, pid, PART))
		_exit(1);
	if (pthread_create(&thread, NULL, tell_when_hanging, &trap))
		_exit(1);
	if (subject->query) {
		/* of something that has a name, which is what is copied first */
		struct procmap_query query = { .size = sizeof(query), .vma_name_addr = (uintptr_t)page,
					       .query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA |
							      PROCMAP_QUERY_FILE_BACKED_VMA,
					       .vma_name_size = (uint32_t)kt_page() };

		ioctl(reader.fd, PROCMAP_QUERY, &query);
	} else {
		/* the first page or so as usual, so that it hangs in the midst of the VMAs */
		for (int i = 0; i < 50; i++)
			if (read(reader.fd, reader.buffer, PART) <= 0)
				break;
		while (read(reader.fd, page, kt_page()) > 0)
			;
	}
	_exit(1);
}

void holders_in_copy(const void *unused)
{
	struct word *word = new_word();
	uint64_t slowest = 0, slowest_exit = 0, hanging = 0, took;
	struct target target;

	(void)unused;
	target_start(&target, VMAS);
	for (unsigned int s = 0; s < ROUND_SUBJECTS; s++) {
		const struct subject *subject = round_subjects[s];
		uint64_t until = kt_now_ns() + (uint64_t)(patience_s() * (double)KT_NSEC);
		char what[96];
		pid_t child;
		int status;

		if (!is_there(subject, target.pid))
			continue;
		atomic_store(&word->hangs, 0);
		child = kt_fork();
		if (!child)
			hang(subject, target.pid, word);
		while (!atomic_load(&word->hangs) && kt_now_ns() < until &&
		       waitpid(child, &status, WNOHANG) == 0)
			kt_sleep_ns(200000);
		if (atomic_load(&word->lacks))
			kt_skip("userfaultfd is refused: %s", strerror(atomic_load(&word->lacks)));
		if (!atomic_load(&word->hangs))
			kt_inconclusive("a reader of %s did not hang in the copy to its buffer",
					subject->what);
		hanging++;
		snprintf(what, sizeof(what), "while a reader of %s hangs in the copy to its buffer",
			 subject->what);
		for (int i = 0; i < 2; i++)
			if (!sweep(&target, what, &slowest))
				return;
		if (!end_reader(child, subject, &took))
			return;
		if (took > slowest_exit)
			slowest_exit = took;
		if (!sweep(&target, "after that reader was killed", &slowest))
			return;
	}
	kt_work("readers that hang", hanging, 2);
	kt_figure("slowest sweep, ms", ms(slowest));
	kt_figure("slowest exit, ms", ms(slowest_exit));
}

/* --- the end --- */

static bool is_ours(const char *pid, const char *comm)
{
	char path[300], name[64];

	snprintf(path, sizeof(path), "/proc/%s/comm", pid);
	return kt_read_file(path, name, sizeof(name)) > 0 && !strcmp(name, comm);
}

/* A task of this program that sleeps uninterruptibly; 0 if there is none. */
static int one_in_d(const char *comm, uint64_t *looked_at)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	int found = 0;

	if (!proc)
		kt_inconclusive("/proc cannot be listed");
	while (!found && (entry = readdir(proc))) {
		struct dirent *thread;
		char path[300];
		DIR *tasks;

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !is_ours(entry->d_name, comm))
			continue;
		snprintf(path, sizeof(path), "/proc/%s/task", entry->d_name);
		tasks = opendir(path);
		while (tasks && (thread = readdir(tasks))) {
			int tid = atoi(thread->d_name);

			(*looked_at)++;
			if (tid && kt_task_state(atoi(entry->d_name), tid) == 'D')
				found = tid;
		}
		if (tasks)
			closedir(tasks);
	}
	closedir(proc);
	return found;
}

void holders_no_d_state(const void *unused)
{
	uint64_t until = kt_now_ns() + (uint64_t)(patience_s() * (double)KT_NSEC), looked_at = 0, looks = 0;
	char comm[64];
	int tid = 0, clean = 0;

	(void)unused;
	if (kt_read_file("/proc/self/comm", comm, sizeof(comm)) <= 0)
		kt_inconclusive("/proc/self/comm cannot be read");
	/* a task may be seen in that state for a moment; three times in a row none is */
	while (clean < 3 && kt_now_ns() < until) {
		tid = one_in_d(comm, &looked_at);
		clean = tid ? 0 : clean + 1;
		looks++;
		kt_sleep_ns(10000000);
	}
	kt_work("tasks looked at", looked_at, 3);
	kt_work("looks", looks, 3);
	if (clean < 3) {
		kt_fail("a task of this program sleeps uninterruptibly for %.0f s", patience_s());
		target_describe(tid);
	}
}
