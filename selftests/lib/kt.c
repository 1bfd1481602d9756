// SPDX-License-Identifier: GPL-2.0-only
#include "kt.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_COUNTERS 24
#define SHOWN_FAILURES 3
#define SHOWN_LINES 60
#define DEFAULT_LIMIT_S 20
#define REAP_S 10
#define INDENT "    "

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_SKIPPED = 4 };

/* What a case tells the program, in shared memory: it survives whatever becomes of the case. */
struct report {
	_Atomic uint64_t failures;
	_Atomic int skipped, inconclusive, nr_counters, lock;
	char failure[256], skip[256], lack[256];
	struct {
		char name[40];
		bool judged;
		uint64_t done, least;
		double value;
	} counters[MAX_COUNTERS];
};

static struct {
	const char *program, *filter;
	double seconds, factor;
	uint64_t seed;
	bool verbose, list;
} opt = { .seconds = -1, .factor = 1 };

static struct report *report;
static const struct kt_case *running;
static uint64_t end_ns, case_seed;

/* --- what is printed: whole lines, each by one write, so that those of several processes do not mix --- */

static void print_line(const char *prefix, const char *text, size_t length)
{
	char line[2048];
	size_t used = strlen(prefix);

	if (length > sizeof(line) - used - 2)
		length = sizeof(line) - used - 2;
	memcpy(line, prefix, used);
	for (size_t i = 0; i < length; i++)
		line[used + i] = text[i] >= ' ' && text[i] != 127 ? text[i] : '?';
	line[used + length] = '\n';
	if (write(STDOUT_FILENO, line, used + length + 1) < 0)
		_exit(EXIT_FAILED);
}

static void vnote(const char *format, va_list arguments)
{
	char text[1800];
	int length = vsnprintf(text, sizeof(text), format, arguments);

	if (length > 0)
		print_line(INDENT "# ", text, (size_t)length < sizeof(text) ? (size_t)length : sizeof(text) - 1);
}

void kt_note(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vnote(format, arguments);
	va_end(arguments);
}

void kt_detail(const char *format, ...)
{
	va_list arguments;

	if (!opt.verbose)
		return;
	va_start(arguments, format);
	vnote(format, arguments);
	va_end(arguments);
}

/* --- judging --- */

static void hold(void)
{
	int free = 0;

	while (!atomic_compare_exchange_weak(&report->lock, &free, 1)) {
		free = 0;
		sched_yield();
	}
}

static void release(void)
{
	atomic_store(&report->lock, 0);
}

static void say_failure(const char *text, size_t length, const char *format, va_list arguments)
{
	char said[256];
	uint64_t before = atomic_fetch_add(&report->failures, 1);
	unsigned int lines = 0;

	vsnprintf(said, sizeof(said), format, arguments);
	if (!before)
		memcpy(report->failure, said, sizeof(said));
	if (before >= SHOWN_FAILURES && !opt.verbose)
		return;
	kt_note("failure %" PRIu64 ": %s", before + 1, said);
	for (size_t at = 0; at < length && lines < SHOWN_LINES; lines++) {
		const char *newline = memchr(text + at, '\n', length - at);
		size_t line = newline ? (size_t)(newline - text) - at : length - at;

		print_line(INDENT "#   | ", text + at, line);
		at += line + 1;
	}
}

void kt_fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_failure(NULL, 0, format, arguments);
	va_end(arguments);
}

void kt_fail_text(const char *text, size_t length, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_failure(text, length, format, arguments);
	va_end(arguments);
}

uint64_t kt_failures(void)
{
	return atomic_load(&report->failures);
}

void kt_skip(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	hold();
	if (!atomic_exchange(&report->skipped, 1))
		vsnprintf(report->skip, sizeof(report->skip), format, arguments);
	release();
	va_end(arguments);
	_exit(EXIT_SKIPPED);
}

void kt_inconclusive(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	if (!report) { /* outside a case */
		vfprintf(stderr, format, arguments);
		fputc('\n', stderr);
		exit(EXIT_FAILED);
	}
	hold();
	if (!atomic_exchange(&report->inconclusive, 1))
		vsnprintf(report->lack, sizeof(report->lack), format, arguments);
	release();
	va_end(arguments);
	_exit(EXIT_FAILED);
}

static void count(const char *name, bool judged, uint64_t done, uint64_t least, double value)
{
	hold();
	if (report->nr_counters < MAX_COUNTERS) {
		int nr = report->nr_counters++;

		snprintf(report->counters[nr].name, sizeof(report->counters[nr].name), "%s", name);
		report->counters[nr].judged = judged;
		report->counters[nr].done = done;
		report->counters[nr].least = least;
		report->counters[nr].value = value;
	}
	release();
}

void kt_work(const char *name, uint64_t done, uint64_t least)
{
	count(name, true, done, least, 0);
}

void kt_figure(const char *name, double value)
{
	count(name, false, 0, 0, value);
}

/* --- what a case asks --- */

static double seconds_of(const struct kt_case *kase)
{
	return opt.seconds >= 0 && kase->seconds > 0 ? opt.seconds : kase->seconds;
}

double kt_seconds(void)
{
	return seconds_of(running);
}

bool kt_over(void)
{
	return kt_now_ns() >= end_ns;
}

uint64_t kt_seed(void)
{
	return case_seed;
}

bool kt_verbose(void)
{
	return opt.verbose;
}

double kt_factor(void)
{
	return opt.factor;
}

/* --- cases --- */

static bool wanted(const struct kt_case *kase)
{
	return !opt.filter || !fnmatch(opt.filter, kase->name, 0);
}

static size_t group_length(const struct kt_case *kase)
{
	return strcspn(kase->name, ".");
}

static bool same_group(const struct kt_case *one, const struct kt_case *other)
{
	size_t length = group_length(one);

	return length == group_length(other) && !memcmp(one->name, other->name, length);
}

static const char *own_name(const struct kt_case *kase)
{
	const char *dot = strchr(kase->name, '.');

	return dot ? dot + 1 : kase->name;
}

/* Wait for a child until a time; false if it is still there. */
static bool reap(pid_t pid, uint64_t until_ns, int *status)
{
	for (;;) {
		pid_t got = waitpid(pid, status, WNOHANG);

		if (got == pid || (got < 0 && errno != EINTR))
			return true;
		if (kt_now_ns() >= until_ns)
			return false;
		kt_sleep_ns(2000000);
	}
}

/* Kill the children of this process, of whatever group; their pids are in text then. */
static void kill_children(char *text, size_t size)
{
	char path[64], *p = text, *end;

	snprintf(path, sizeof(path), "/proc/self/task/%d/children", getpid());
	if (kt_read_file(path, text, size) < 0)
		*text = 0;
	for (long pid = strtol(p, &end, 10); end != p; pid = strtol(p, &end, 10)) {
		kill((pid_t)pid, SIGKILL);
		p = end;
	}
}

/* End what a case left behind. A process that even SIGKILL does not end is the kernel's fault. */
static void sweep(pid_t group)
{
	uint64_t until = kt_now_ns() + (uint64_t)(REAP_S * opt.factor * (double)KT_NSEC);
	char left[256];
	pid_t got;

	kill(-group, SIGKILL);
	while ((got = waitpid(-1, NULL, WNOHANG)) >= 0 || errno == EINTR) {
		if (got)
			continue;
		kill_children(left, sizeof(left));
		if (kt_now_ns() >= until) {
			kt_fail("processes that SIGKILL does not end: %s", *left ? left : "which, is not told");
			return;
		}
		kt_sleep_ns(2000000);
	}
}

static void print_work(void)
{
	char text[1024] = "";
	size_t used = 0;

	for (int i = 0; i < report->nr_counters && used < sizeof(text); i++) {
		const char *name = report->counters[i].name;
		size_t room = sizeof(text) - used;
		int got;

		if (!report->counters[i].judged)
			got = snprintf(text + used, room, " %s=%.4g", name, report->counters[i].value);
		else if (report->counters[i].least)
			got = snprintf(text + used, room, " %s=%" PRIu64 " (least %" PRIu64 ")", name,
				       report->counters[i].done, report->counters[i].least);
		else
			got = snprintf(text + used, room, " %s=%" PRIu64, name, report->counters[i].done);
		used += got > 0 ? (size_t)got : 0;
	}
	if (used)
		kt_note("work:%s", text);
}

static const char *too_little(void)
{
	static char text[160];

	for (int i = 0; i < report->nr_counters; i++) {
		if (report->counters[i].judged && report->counters[i].done < report->counters[i].least) {
			snprintf(text, sizeof(text), "too little work: %s=%" PRIu64 ", at least %" PRIu64 " wanted",
				 report->counters[i].name, report->counters[i].done, report->counters[i].least);
			return text;
		}
	}
	return NULL;
}

static _Noreturn void be_the_case(const struct kt_case *kase)
{
	running = kase;
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	case_seed = opt.seed;
	for (const char *p = kase->name; *p; p++)
		case_seed = case_seed * 1099511628211ULL + (unsigned char)*p;
	end_ns = kt_now_ns() + (uint64_t)(kt_seconds() * (double)KT_NSEC);
	kase->run(kase->arg);
	fflush(stdout);
	_exit(0);
}

enum outcome { PASSED, FAILED, SKIPPED };

/*
 * A line of the kernel log, so that a report there can be told to be this case's. Whoever started the program
 * asks for it with a word that comes back, and the program's own path: "WORD SUITE/PROGRAM".
 */
static void mark(const char *what, const struct kt_case *kase)
{
	const char *asked = getenv("ORCHESTRATE_MARK"), *path = asked ? strchr(asked, ' ') : NULL;
	char text[512];
	int fd;

	if (!path)
		return;
	/* opened anew each time: what an open file may write there is rationed */
	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return;
	snprintf(text, sizeof(text), "<3>orchestrate: %s %.200s/%.*s/%.100s #%.*s\n", what, path + 1,
		 (int)group_length(kase), kase->name, own_name(kase), (int)(path - asked), asked);
	if (write(fd, text, strlen(text)) < 0)
		errno = 0;
	close(fd);
}

static enum outcome run_case(const struct kt_case *kase, unsigned int number)
{
	double limit_s = seconds_of(kase) + (kase->limit_s > 0 ? kase->limit_s : DEFAULT_LIMIT_S) * opt.factor;
	uint64_t since = kt_now_ns();
	const char *name = own_name(kase), *lack;
	int status = 0;
	pid_t pid;

	memset(report, 0, sizeof(*report));
	kt_note("%s: %s", name, kase->proves);
	mark("begin", kase);
	pid = fork();
	if (pid < 0) {
		mark("end", kase);
		printf(INDENT "ok %u %s # SKIP inconclusive: fork: %s\n", number, name, strerror(errno));
		return SKIPPED;
	}
	if (!pid)
		be_the_case(kase);
	setpgid(pid, pid);
	if (!reap(pid, since + (uint64_t)(limit_s * (double)KT_NSEC), &status)) {
		kt_fail("not done after %.0f s", limit_s);
	} else if (WIFSIGNALED(status)) {
		kt_fail("killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	} else if (WEXITSTATUS(status) && !report->skipped && !report->inconclusive) {
		atomic_store(&report->inconclusive, 1);
		snprintf(report->lack, sizeof(report->lack), "it ended with status %d", WEXITSTATUS(status));
	}
	sweep(pid);
	mark("end", kase);
	print_work();
	kt_note("took %.1f s, seed %" PRIu64, (double)(kt_now_ns() - since) / (double)KT_NSEC, opt.seed);
	lack = report->inconclusive ? report->lack : report->skipped ? NULL : too_little();
	if (report->failures) {
		kt_note("%" PRIu64 " failures, the first: %s", report->failures, report->failure);
		printf(INDENT "not ok %u %s\n", number, name);
	} else if (lack) {
		printf(INDENT "ok %u %s # SKIP inconclusive: %s\n", number, name, lack);
	} else if (report->skipped) {
		printf(INDENT "ok %u %s # SKIP %s\n", number, name, report->skip);
	} else {
		printf(INDENT "ok %u %s\n", number, name);
	}
	fflush(stdout);
	return report->failures ? FAILED : lack || report->skipped ? SKIPPED : PASSED;
}

static enum outcome run_group(const struct kt_case *cases, size_t nr, unsigned int number)
{
	unsigned int planned = 0, at = 0, of[3] = { 0, 0, 0 };

	for (size_t i = 0; i < nr; i++)
		planned += wanted(&cases[i]);
	printf(INDENT "KTAP version 1\n" INDENT "1..%u\n", planned);
	fflush(stdout);
	for (size_t i = 0; i < nr; i++)
		if (wanted(&cases[i]))
			of[run_case(&cases[i], ++at)]++;
	printf("%s %u %.*s%s\n", of[FAILED] ? "not ok" : "ok", number, (int)group_length(cases), cases->name,
	       of[FAILED] || of[PASSED] ? "" : " # SKIP all its cases are");
	fflush(stdout);
	return of[FAILED] ? FAILED : of[PASSED] ? PASSED : SKIPPED;
}

/* The first case behind those of a group. */
static size_t group_end(const struct kt_case *cases, size_t nr, size_t from)
{
	size_t end = from;

	while (end < nr && same_group(&cases[from], &cases[end]))
		end++;
	return end;
}

static bool any_wanted(const struct kt_case *cases, size_t from, size_t end)
{
	while (from < end)
		if (wanted(&cases[from++]))
			return true;
	return false;
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"Usage: %s [options]\n"
		"  --list            the cases and what they prove\n"
		"  --filter PATTERN  only these, as group.case; * and ? as in a shell\n"
		"  --duration S      seconds for each case that goes on for a time\n"
		"  --seed N          of the random numbers; without it one that is printed\n"
		"  --verbose         every failure, and details\n"
		"Exit status: 0 nothing failed, 1 something did, 2 wrong usage, 4 all skipped.\n",
		opt.program);
	exit(status);
}

static void parse_options(int argc, char **argv)
{
	static const struct option names[] = {
		{ "list", no_argument, NULL, 'l' },	   { "filter", required_argument, NULL, 'f' },
		{ "duration", required_argument, NULL, 'd' }, { "seed", required_argument, NULL, 's' },
		{ "verbose", no_argument, NULL, 'v' },	   { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *factor = getenv("ORCHESTRATE_FACTOR");
	char *end = NULL;
	int which;

	opt.seed = kt_now_ns() ^ (uint64_t)getpid() << 32;
	opt.seed &= 0xffffffff;
	if (factor && strtod(factor, NULL) > 1)
		opt.factor = strtod(factor, NULL);
	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (which) {
		case 'l': opt.list = true; break;
		case 'f': opt.filter = optarg; break;
		case 'v': opt.verbose = true; break;
		case 'd':
			opt.seconds = strtod(optarg, &end);
			if (end == optarg || *end || !(opt.seconds > 0 && opt.seconds <= 86400)) {
				fprintf(stderr, "%s: --duration wants seconds, not '%s'\n", opt.program, optarg);
				exit(EXIT_USAGE);
			}
			break;
		case 's':
			errno = 0;
			opt.seed = strtoull(optarg, &end, 0);
			if (end == optarg || *end || errno || *optarg == '-') {
				fprintf(stderr, "%s: --seed wants a number, not '%s'\n", opt.program, optarg);
				exit(EXIT_USAGE);
			}
			break;
		case 'h': usage(0);
		default: usage(EXIT_USAGE);
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument '%s'\n", opt.program, argv[optind]);
		exit(EXIT_USAGE);
	}
}

int kt_main(int argc, char **argv, const char *program, const struct kt_case *cases, size_t nr)
{
	unsigned int groups = 0, number = 0, of[3] = { 0, 0, 0 };
	size_t end;

	opt.program = program;
	parse_options(argc, argv);
	if (opt.list) {
		for (size_t i = 0; i < nr; i++)
			if (wanted(&cases[i]))
				printf("%-32s %5.1f s  %s\n", cases[i].name, seconds_of(&cases[i]), cases[i].proves);
		return 0;
	}
	kt_cpus();
	report = kt_shared(sizeof(*report));
	/* whoever started it may have ignored it, and then no child would tell how it ended */
	signal(SIGCHLD, SIG_DFL);
	/* what the cases' own children leave behind comes to this process, and is seen */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (size_t from = 0; from < nr; from = end) {
		end = group_end(cases, nr, from);
		groups += any_wanted(cases, from, end);
	}
	if (!groups) {
		fprintf(stderr, "%s: no case is called '%s'; --list shows them\n", program, opt.filter);
		return EXIT_USAGE;
	}
	printf("KTAP version 1\n1..%u\n", groups);
	for (size_t from = 0; from < nr; from = end) {
		end = group_end(cases, nr, from);
		if (any_wanted(cases, from, end))
			of[run_group(cases + from, end - from, ++number)]++;
	}
	return of[FAILED] ? EXIT_FAILED : of[PASSED] ? 0 : EXIT_SKIPPED;
}
