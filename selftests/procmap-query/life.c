// SPDX-License-Identifier: GPL-2.0-only
/* Whose mappings an open file answers for, until when, and that nothing stays behind once it has answered. */
#include "cases.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static struct fixture fixture;
static struct target target;
static struct areas areas, again;
static struct pm_checker checker;

static int any_query(int maps, uint64_t addr, uint64_t flags)
{
	struct pm_ask ask = { .addr = addr, .flags = flags };
	struct procmap_query query;

	return pm_ask(maps, &ask, &query);
}

static void check_all(int maps)
{
	checker.fd = maps;
	checker.areas = &areas;
	for (size_t i = 0; i < areas.nr; i++) {
		pm_check(&checker, areas.area[i].start, 0);
		pm_check(&checker, areas.area[i].end - 1, PM_NEXT | PM_FILE);
	}
}

/* A child asks through its parent's file, while it has other mappings itself. */
static void ask_inherited(int maps)
{
	int status;
	pid_t pid;

	pid = kt_fork();
	if (!pid) {
		munmap(fixture.arena, fixture.arena_pages * kt_page());
		check_all(maps);
		_exit(checker.found ? 0 : 1);
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
		kt_inconclusive("the child that was to ask did not");
}

void life_file(const void *arg)
{
	struct maps_text text = { 0 };
	char path[64], head[700];
	int maps, own, thread;
	ssize_t got;

	(void)arg;
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	target_start(&target, &fixture);
	maps = pm_open(target.pid);
	own = pm_open(0);
	/* the two are no longer alike */
	munmap(fixture.arena, fixture.arena_pages * kt_page());
	areas_settle(&areas, maps);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/maps", target.pid, target.pid);
	thread = open(path, O_RDONLY | O_CLOEXEC);
	if (thread < 0)
		kt_inconclusive("%s: %s", path, strerror(errno));
	check_all(maps);
	any_query(own, 0, PM_NEXT);
	check_all(maps);
	check_all(thread);
	ask_inherited(maps);
	for (unsigned int i = 0; i < fixture.nr; i++) {
		uint64_t at = (uintptr_t)fixture.piece[i].at;

		if (any_query(own, at, 0) != ENOENT)
			kt_fail("a mapping is found in the process that unmapped it");
		pm_check(&checker, at, 0);
	}
	/* queries between two reads leave the position alone */
	lseek(maps, 0, SEEK_SET);
	got = read(maps, head, sizeof(head));
	check_all(maps);
	if (got <= 0 || maps_read(maps, 4096, &text) || (size_t)got + text.length != areas.text.length ||
	    memcmp(head, areas.text.data, (size_t)got) ||
	    memcmp(text.data, areas.text.data + got, text.length))
		kt_fail("after queries a half-read file goes on elsewhere than it stood");
	areas_unchanged(&areas, &again, maps);
	target_end(&target);
	fixture_remove(&fixture);
	kt_work("queries", checker.asked, 200);
}

/* Ask until it is said that there is no such process any more. */
static void must_vanish(int maps, uint64_t addr, const char *what)
{
	uint64_t until = kt_now_ns() + (uint64_t)(10 * kt_factor() * (double)KT_NSEC);
	int error;

	/* whoever reads about it just now holds it a little longer */
	while ((error = any_query(maps, addr, 0)) == 0 && kt_now_ns() < until)
		kt_sleep_ns(1000000);
	checker.asked++;
	if (error != ESRCH) {
		kt_fail("%s: %s, not ESRCH", what, error ? strerror(error) : "still answered after seconds");
		return;
	}
	for (uint64_t flags = 0; flags <= PM_FLAGS; flags++) {
		error = any_query(maps, flags % 2 ? addr : 0, flags);
		checker.asked++;
		if (error != ESRCH)
			kt_fail("%s: once it was ESRCH, then %s", what, error ? strerror(error) : "an answer");
	}
}

static void end_in(enum order order, const char *what)
{
	uint64_t addr = (uintptr_t)fixture.piece[0].at;
	siginfo_t info;
	int maps, late;
	char path[64];

	target_start(&target, &fixture);
	maps = pm_open(target.pid);
	if (any_query(maps, addr, 0))
		kt_inconclusive("%s: nothing is found while it lives", what);
	target_order(&target, order);
	if (waitid(P_PID, (id_t)target.pid, &info, WEXITED | WNOWAIT))
		kt_inconclusive("waitid: %s", strerror(errno));
	must_vanish(maps, addr, what);
	snprintf(path, sizeof(path), "/proc/%d/maps", target.pid);
	late = open(path, O_RDONLY | O_CLOEXEC);
	if (late >= 0) {
		must_vanish(late, addr, "opened when it was over");
		close(late);
	}
	target_end(&target);
	must_vanish(maps, addr, what);
	close(maps);
}

/* A thread of the kernel has no mappings: its file cannot be opened, or knows of none. */
static void kernel_thread(void)
{
	char name[64];
	int maps;

	if (kt_read_file("/proc/2/comm", name, sizeof(name)) <= 0 || strcmp(name, "kthreadd\n"))
		return;
	maps = open("/proc/2/maps", O_RDONLY | O_CLOEXEC);
	if (maps < 0)
		return;
	must_vanish(maps, 0, "a thread of the kernel");
	close(maps);
}

void life_ended(const void *arg)
{
	(void)arg;
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	close(pm_open(0));
	for (int i = 0; i < 3; i++) {
		end_in(ORDER_EXIT, "a process that ended");
		end_in(ORDER_EXEC, "a process that executed another program");
	}
	kernel_thread();
	fixture_remove(&fixture);
	kt_work("queries", checker.asked, 6 * 100);
}

void life_ending(const void *arg)
{
	struct pm_ask ask = { .name_size = sizeof(checker.name), .name = checker.name };
	struct kt_rng rng = { kt_seed() };
	uint64_t rounds = 0, answers = 0;

	(void)arg;
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	close(pm_open(0));
	for (; !kt_over(); rounds++) {
		const struct area *area;
		uint64_t asked = 0;
		int maps, error;

		target_start(&target, &fixture);
		maps = pm_open(target.pid);
		areas_read(&areas, maps);
		if (rounds % 3 == 0)
			kill(target.pid, SIGKILL);
		else
			target_order(&target, rounds % 3 == 1 ? ORDER_EXIT : ORDER_EXEC);
		do {
			struct procmap_query query;
			const char *field;

			area = &areas.area[kt_below(&rng, areas.nr)];
			ask.addr = area->start + kt_below(&rng, area->end - area->start);
			error = pm_ask(maps, &ask, &query);
			/* while it waits for orders its stack may not grow, so that nothing of it changes */
			field = error ? NULL : pm_differs(area, &ask, &query);
			if (field || (error && error != ESRCH))
				pm_wrong(&areas, area, &ask, &query, error, "of a process that is ending");
			asked++;
		} while (error != ESRCH && !(kt_over() && asked > 1000000));
		answers += asked - 1;
		if (any_query(maps, ask.addr, 0) != ESRCH)
			kt_fail("an answer about a process that was no more");
		close(maps);
		target_end(&target);
	}
	fixture_remove(&fixture);
	kt_work("processes", rounds, 3);
	kt_work("answers before the end", answers, 3);
}

/* Queries that fail at each of the places where they can, some that do not, and some that say ENOENT. */
static uint64_t fail_everywhere(int maps, unsigned int times)
{
	static char name[PATH_MAX];
	unsigned char id[PM_ID_MAX];
	uint64_t failed = 0;

	for (unsigned int i = 0; i < times; i++) {
		for (unsigned int j = 0; j < fixture.nr; j++) {
			struct pm_ask ask = { .addr = (uintptr_t)fixture.piece[j].at, .name = name, .id = id };
			struct procmap_query query;

			switch ((i + j) % 8) {
			case 0:
				ask.name_size = 1;
				break;
			case 1:
				ask.name_size = sizeof(name);
				ask.name = (void *)8;
				break;
			case 2:
				ask.name_size = sizeof(name);
				ask.id_size = 1;
				break;
			case 3:
				ask.name_size = 3;
				ask.id_size = 3;
				break;
			case 4:
				ask.name_size = sizeof(name);
				ask.id_size = sizeof(id);
				ask.id = (void *)8;
				break;
			case 5:
				ask.addr--;
				ask.flags = PM_FLAGS & ~PM_NEXT;
				break;
			case 6:
				ask.flags = PM_FLAGS;
				ask.name_size = 1;
				break;
			default:
				ask.name_size = sizeof(name);
				ask.id_size = sizeof(id);
			}
			failed += pm_ask(maps, &ask, &query) != 0;
			checker.asked++;
		}
	}
	return failed;
}

/* Map a file with a build-id in place of some of the pieces, so that there is one to be refused. */
static void add_build_ids(void)
{
	struct kt_rng rng = { kt_seed() };
	struct elf elf = { .name = "with an id", .id_length = 20 };
	int fd = elf_file(&fixture, &elf, &rng);

	for (unsigned int i = 0; i < fixture.nr; i += 3)
		kt_map(fixture.piece[i].at, fixture.piece[i].length, PROT_READ, MAP_SHARED | MAP_FIXED, fd);
	close(fd);
}

void life_locks(const void *arg)
{
	uint64_t addr, failed;
	int maps;

	(void)arg;
	fixture_directory(&fixture);
	fixture_map(&fixture, kt_seed());
	add_build_ids();
	addr = (uintptr_t)fixture.piece[0].at;
	target_start(&target, &fixture);
	maps = pm_open(target.pid);
	failed = fail_everywhere(maps, 20);
	target_order(&target, ORDER_MPROTECT);
	if (!target_done(&target, 15)) {
		kt_fail("after failed queries the process cannot change its mappings: it is in state %c",
			kt_task_state(target.pid, target.pid) ? kt_task_state(target.pid, target.pid) : '?');
		return;
	}
	areas_read(&areas, maps);
	check_all(maps);
	target_order(&target, ORDER_EXIT);
	must_vanish(maps, addr, "a process that ended after failed queries");
	target_end(&target);
	fixture_remove(&fixture);
	kt_work("queries that failed", failed, 400);
}

/* 0, or why there is no lease for reading: EAGAIN while it is open for writing anywhere. */
static int lease(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;

	if (fd < 0)
		kt_inconclusive("%s: %s", path, strerror(errno));
	error = fcntl(fd, F_SETLEASE, F_RDLCK) ? errno : 0;
	close(fd);
	return error;
}

void life_references(const void *arg)
{
	struct elf elf = { .name = "leased", .id_length = 20 };
	struct kt_rng rng = { kt_seed() };
	char path[512];
	int fd, maps, error;
	void *at;

	(void)arg;
	fixture_directory(&fixture);
	maps = pm_open(0);
	fd = elf_file(&fixture, &elf, &rng);
	snprintf(path, sizeof(path), "%s/leased", fixture.directory);
	at = kt_map(NULL, kt_page(), PROT_READ, MAP_SHARED, fd);
	close(fd);
	error = lease(path);
	if (error != EAGAIN)
		kt_inconclusive("a lease does not show who has the file open: %s",
				error ? strerror(error) : "it was given");
	fixture.piece[0] = (struct piece){ .at = at, .length = kt_page(), .fd = -1 };
	fixture.nr = 1;
	kt_work("queries that failed", fail_everywhere(maps, 200), 100);
	munmap(at, kt_page());
	fixture.nr = 0;
	error = lease(path);
	if (error == EAGAIN)
		kt_fail("the file is still open although it is closed and unmapped: queries kept it");
	else if (error)
		kt_inconclusive("%s: %s", path, strerror(error));
	fixture_remove(&fixture);
}

/* What the kernel has taken for itself, in bytes. */
static uint64_t slab_bytes(void)
{
	long long pages = kt_vmstat("nr_slab_unreclaimable");

	if (pages < 0)
		kt_skip("/proc/vmstat has no nr_slab_unreclaimable");
	return (uint64_t)pages * kt_page();
}

void life_memory(const void *arg)
{
	enum { QUERIES = 1500 };
	/* what KASAN holds back before it gives it away is half of this at most */
	uint64_t enough = (uint64_t)sysconf(_SC_PHYS_PAGES) * kt_page() / 16 + (16 << 20);
	struct elf elf = { .name = "with an id", .id_length = 20 };
	struct kt_rng rng = { kt_seed() };
	uint64_t until = kt_now_ns() + (uint64_t)(10 * kt_factor() * (double)KT_NSEC);
	uint64_t begin, before, now, rounds = 0;
	static char name[PATH_MAX];
	char id[1];
	int maps, fd;
	void *at;

	(void)arg;
	fixture_directory(&fixture);
	maps = pm_open(0);
	fd = elf_file(&fixture, &elf, &rng);
	at = kt_map(NULL, kt_page(), PROT_READ, MAP_SHARED, fd);
	begin = now = slab_bytes();
	do {
		before = now;
		for (int i = 0; i < QUERIES; i++) {
			/* 4 KiB for the name each time, which is given back after a bad pointer or an id too long */
			struct pm_ask ask = { .addr = (uintptr_t)at, .name = i % 2 ? (void *)8 : name,
					      .name_size = sizeof(name), .id = id, .id_size = i % 2 ? 0 : 1 };
			struct procmap_query query;

			checker.found += pm_ask(maps, &ask, &query) != 0;
		}
		now = slab_bytes();
		rounds++;
		kt_detail("round %" PRIu64 ": %lld KiB more in slabs", rounds, (long long)(now - before) / 1024);
		/* one round without growth shows it; growth may be others', but hardly in every one */
	} while (now > before + QUERIES / 2 * PATH_MAX * 3 / 4 && now < begin + enough && kt_now_ns() < until);
	if (now >= begin + enough)
		kt_fail("%" PRIu64 " times %d queries that fail leave %" PRIu64 " KiB more in slabs", rounds, QUERIES,
			(now - begin) / 1024);
	else if (now > before + QUERIES / 2 * PATH_MAX * 3 / 4)
		kt_inconclusive("the kernel's memory still grows, by %" PRIu64 " KiB so far", (now - begin) / 1024);
	munmap(at, kt_page());
	close(fd);
	fixture_remove(&fixture);
	kt_work("queries that failed", checker.found, QUERIES);
}
