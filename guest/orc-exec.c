// SPDX-License-Identifier: GPL-2.0-only
/*
 * orc-exec: run one command in the guest so that what became of it cannot be mistaken.
 *
 *	orc-exec --limit SECONDS [--cwd DIR] [--env K=V]... [--cpus LIST] [--nice N]
 *	         [--max-bytes N] [--mark ID] [--late SECONDS] -- ARGV...
 *	orc-exec --freshen EPOCH_NS
 *
 * The first line of stdin is a nonce. The command gets /dev/null as stdin and a session of its own;
 * its output is passed on, up to --max-bytes a stream. Whatever it leaves behind is killed. The last
 * line on stderr is "@orc NONCE {json}", and only that line says how the command ended: an exit code
 * that came over SSH could as well be the shell's, the server's or the lost connection's.
 *
 * With --mark the next two lines of stdin are words as well. What the command's time in the kernel log is,
 * two lines there say: "orchestrate: begin ID #FIRST" and "orchestrate: end ID #SECOND". Nobody in the guest
 * knows the second word before it stands there.
 *
 * With --late a line "@orc NONCE late" on stderr says that the limit has passed. Whoever reads it may look at
 * what hangs; it goes on as without --late once something comes on stdin, stdin ends, or SECONDS are over.
 *
 * With --freshen it makes a guest that was restored from a saved state one of its own: the clock is set to
 * EPOCH_NS plus the time since this process began, and 32 to 512 bytes from stdin go into the kernel's
 * pool of randomness, which then reseeds its generator. One JSON line on stdout says what came of each.
 *
 * Exit status: 0 the report was written; 1 nobody is there to read it; 2 wrong usage.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	NONCE_MAX = 128,
	NONCE_WAIT_MS = 30000,
	GRACE_MS = 2000,   /* between SIGTERM and SIGKILL */
	GIVE_UP_MS = 3000, /* after SIGKILL: what is left sleeps uninterruptibly */
	DRAIN_MS = 2000,   /* for output after the last process is gone */
	TICK_MS = 50,      /* how often SIGKILL is repeated, against forks in flight */
	MAX_PROCS = 65536,
	MAX_ENV = 256,
	ENTROPY_MIN = 32,
	ENTROPY_MAX = 512,
};

struct stream {
	int in, out;
	char buf[4096]; /* PIPE_BUF: a write of it never blocks once poll() allowed it */
	size_t off, len;
	unsigned long long passed, dropped;
};

struct options {
	long long limit_ms;
	unsigned long long max_bytes;
	long long late_ms;
	const char *cwd, *cpus, *mark;
	char *env[MAX_ENV];
	int nenv, nice;
	bool have_nice;
	char **argv;
};

/* What the child says before it becomes the command; sent whole, smaller than PIPE_BUF. */
struct prelude {
	int error; /* errno, 0 where all went well */
	int nice;
	char stage[16];
	cpu_set_t cpus;
};

enum state { RUNNING, LATE, TERMINATING, KILLING, DRAINING, DONE };

struct report {
	bool ended, timeout, stuck;
	int status;
	long long wall_ms;
	struct rusage usage;
	unsigned long leftovers;
};

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

__attribute__((noreturn, format(printf, 1, 2))) static void usage(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	fputs("orc-exec: ", stderr);
	vfprintf(stderr, format, ap);
	fputs("\nusage: orc-exec --limit SECONDS [--cwd DIR] [--env K=V]... [--cpus LIST] "
	      "[--nice N] [--max-bytes N] [--mark ID] [--late SECONDS] -- ARGV...\n"
	      "       orc-exec --freshen EPOCH_NS\n", stderr);
	va_end(ap);
	exit(2);
}

static long long number(const char *text, const char *what, long long low, long long high)
{
	char *end;
	long long value;

	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno || end == text || *end || value < low || value > high)
		usage("%s must be a number from %lld to %lld, not '%s'", what, low, high, text);
	return value;
}

static long long milliseconds(const char *text, const char *what)
{
	char *end;
	double seconds;

	errno = 0;
	seconds = strtod(text, &end);
	if (errno || end == text || *end || !(seconds >= 0.001 && seconds <= 1e7))
		usage("%s must be seconds from 0.001 to 10000000, not '%s'", what, text);
	return (long long)(seconds * 1000);
}

/* "0-2,5" into a set; false where the text is no such list. */
static bool parse_cpus(const char *text, cpu_set_t *set)
{
	CPU_ZERO(set);
	do {
		char *end;
		unsigned long first, last;

		if (!isdigit((unsigned char)*text))
			return false;
		first = last = strtoul(text, &end, 10);
		if (*end == '-') {
			if (!isdigit((unsigned char)end[1]))
				return false;
			last = strtoul(end + 1, &end, 10);
		}
		if (first > last || last >= CPU_SETSIZE)
			return false;
		for (; first <= last; first++)
			CPU_SET(first, set);
		text = end;
	} while (*text++ == ',');
	return text[-1] == '\0';
}

static void format_cpus(const cpu_set_t *set, char *out, size_t size)
{
	size_t used = 0;

	out[0] = '\0';
	for (int cpu = 0; cpu < CPU_SETSIZE && used + 24 < size; cpu++) {
		int last = cpu;

		if (!CPU_ISSET(cpu, set))
			continue;
		while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, set))
			last++;
		used += snprintf(out + used, size - used, last > cpu ? "%s%d-%d" : "%s%d",
				 used ? "," : "", cpu, last);
		cpu = last;
	}
}

static void parse(int argc, char **argv, struct options *o)
{
	int i;

	*o = (struct options){.max_bytes = 16ULL << 20};
	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i += 2) {
		const char *name = argv[i];
		char *value = argv[i + 1];

		if (!value)
			usage("%s needs a value", name);
		if (!strcmp(name, "--limit")) {
			o->limit_ms = milliseconds(value, name);
		} else if (!strcmp(name, "--late")) {
			o->late_ms = milliseconds(value, name);
		} else if (!strcmp(name, "--mark")) {
			o->mark = value;
		} else if (!strcmp(name, "--cwd")) {
			o->cwd = value;
		} else if (!strcmp(name, "--env")) {
			if (!strchr(value, '=') || value[0] == '=')
				usage("--env must be K=V, not '%s'", value);
			if (o->nenv == MAX_ENV)
				usage("more than %d --env", MAX_ENV);
			o->env[o->nenv++] = value;
		} else if (!strcmp(name, "--cpus")) {
			cpu_set_t set;

			if (!parse_cpus(value, &set))
				usage("--cpus must be a list such as 0-2,5, not '%s'", value);
			o->cpus = value;
		} else if (!strcmp(name, "--nice")) {
			o->nice = (int)number(value, "--nice", -20, 19);
			o->have_nice = true;
		} else if (!strcmp(name, "--max-bytes")) {
			o->max_bytes = (unsigned long long)number(value, "--max-bytes", 0, LLONG_MAX);
		} else {
			usage("unknown option '%s'", name);
		}
	}
	if (i >= argc || !argv[i + 1])
		usage("no command");
	if (!o->limit_ms)
		usage("--limit is missing");
	o->argv = argv + i + 1;
}

/* Nonces come over stdin since /proc/PID/cmdline is everybody's to read. */
static void read_nonce(char *nonce)
{
	long long deadline = now_ms() + NONCE_WAIT_MS;
	size_t len = 0;

	for (;;) {
		struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
		long long left = deadline - now_ms();
		char c;

		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			usage("no nonce on stdin");
		/* one byte at a time: what follows the line is not ours */
		if (read(STDIN_FILENO, &c, 1) != 1)
			usage("stdin ended before the nonce did");
		if (c == '\n')
			break;
		if (len == NONCE_MAX || !(isalnum((unsigned char)c) || c == '-' || c == '_'))
			usage("the nonce must be up to %d letters, digits, '-' and '_'", NONCE_MAX);
		nonce[len++] = c;
	}
	if (!len)
		usage("the nonce is empty");
	nonce[len] = '\0';
}

/* One line of the kernel log; opened anew each time, since what an open file may write there is rationed. */
static void mark(const struct options *o, const char *what, const char *word)
{
	char text[512];
	int fd, n;

	if (!o->mark)
		return;
	fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return;
	n = snprintf(text, sizeof(text), "<3>orchestrate: %s %.300s #%s\n", what, o->mark, word);
	/* a wish: whoever reads the console sees whether it is there */
	if (write(fd, text, (size_t)n) < 0)
		errno = 0;
	close(fd);
}

static void set_oom_score(const char *score)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	/* a wish: without the right to lower it, the runner stays as killable as anybody */
	if (write(fd, score, strlen(score)) < 0)
		errno = 0;
	close(fd);
}

__attribute__((noreturn)) static void fail(int fd, struct prelude *p, const char *stage)
{
	p->error = errno;
	snprintf(p->stage, sizeof(p->stage), "%s", stage);
	_exit(write(fd, p, sizeof(*p)) == sizeof(*p) ? 127 : 126);
}

__attribute__((noreturn)) static void become(const struct options *o, int out, int err, int say, pid_t parent)
{
	struct prelude p = {0};
	sigset_t none;
	int null;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	setsid();
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	set_oom_score("0");

	null = open("/dev/null", O_RDONLY);
	if (null < 0)
		fail(say, &p, "/dev/null");
	if (dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0)
		fail(say, &p, "dup2");
	if (null > 2)
		close(null);
	if (o->cwd && chdir(o->cwd))
		fail(say, &p, "cwd");
	for (int i = 0; i < o->nenv; i++)
		if (putenv(o->env[i]))
			fail(say, &p, "env");
	if (o->cpus) {
		cpu_set_t set;

		parse_cpus(o->cpus, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			fail(say, &p, "cpus");
	}
	if (o->have_nice && setpriority(PRIO_PROCESS, 0, o->nice))
		fail(say, &p, "nice");

	/* read back: the kernel may grant less than was asked for without an error */
	CPU_ZERO(&p.cpus);
	sched_getaffinity(0, sizeof(p.cpus), &p.cpus);
	p.nice = getpriority(PRIO_PROCESS, 0);
	if (write(say, &p, sizeof(p)) != sizeof(p))
		_exit(126);
	execvp(o->argv[0], o->argv);
	fail(say, &p, "exec");
}

/* parent and state of a process, from /proc/PID/stat; false where it is gone */
static bool proc_stat(long pid, pid_t *parent, char *state)
{
	char path[64], text[512], *after;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	/* the name before it is the process's own choice, brackets and all */
	after = strrchr(text, ')');
	return after && sscanf(after + 1, " %c %d", state, parent) == 2;
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

/*
 * Sends sig (0: none) to every living descendant; returns how many there are.
 * Being the subreaper, this process is an ancestor of whatever the command started, sessions and
 * double forks notwithstanding.
 */
static unsigned long signal_tree(int sig)
{
	static pid_t pid[MAX_PROCS], parent[MAX_PROCS];
	static char state[MAX_PROCS];
	static bool mine[MAX_PROCS];
	unsigned long living = 0, n = 0;
	pid_t self = getpid();
	struct dirent *e;
	bool grown = true;
	DIR *proc = opendir("/proc");

	if (!proc)
		return 0;
	while (n < MAX_PROCS && (e = readdir(proc))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		pid[n] = (pid_t)strtol(e->d_name, NULL, 10);
		mine[n] = false;
		if (proc_stat(pid[n], &parent[n], &state[n]))
			n++;
	}
	closedir(proc);
	/* until nothing changes: a parent may have the higher pid */
	while (grown) {
		grown = false;
		for (unsigned long i = 0; i < n; i++) {
			/* /proc lists pids in ascending order */
			pid_t *p = bsearch(&parent[i], pid, n, sizeof(*pid), compare_pids);

			if (!mine[i] && (parent[i] == self || (p && mine[p - pid])))
				mine[i] = grown = true;
		}
	}
	for (unsigned long i = 0; i < n; i++) {
		if (!mine[i] || state[i] == 'Z' || state[i] == 'X')
			continue;
		living++;
		if (sig)
			kill(pid[i], sig);
	}
	return living;
}

/* One prelude; 1 it came, 0 the child has become the command (or died), -1 neither happened in time. */
static int hear(int fd, struct prelude *p, long long deadline)
{
	struct pollfd say = {.fd = fd, .events = POLLIN};
	long long left = deadline - now_ms();

	if (left <= 0 || poll(&say, 1, left > INT_MAX ? INT_MAX : (int)left) != 1)
		return -1;
	return read(fd, p, sizeof(*p)) == sizeof(*p);
}

/*
 * Waits until the command runs; NULL, or why it does not. Has a deadline, since exec and chdir can
 * sleep for ever in a kernel that is broken.
 */
static const char *await_exec(const struct options *o, int fd, long long deadline, struct prelude *p)
{
	static char message[512];
	struct prelude last;
	const char *what;
	int heard = hear(fd, p, deadline);

	if (heard == 0)
		return "the child ended before it could report";
	last = *p;
	if (heard > 0 && !p->error) {
		heard = hear(fd, &last, deadline);
		if (heard == 0)
			return NULL;
	}
	if (heard < 0)
		return "the limit passed before the command was started";
	what = !strcmp(last.stage, "cwd") ? o->cwd : !strcmp(last.stage, "cpus") ? o->cpus : o->argv[0];
	snprintf(message, sizeof(message), "%s %.300s: %s", last.stage, what, strerror(last.error));
	return message;
}

/* Reaps all that ended; true while there are children left. */
static bool reap(pid_t child, long long started, struct report *r)
{
	for (;;) {
		struct rusage usage;
		int status;
		pid_t pid = wait4(-1, &status, WNOHANG, &usage);

		if (pid < 0)
			return false;
		if (pid == 0)
			return true;
		if (pid == child) {
			r->ended = true;
			r->status = status;
			r->usage = usage;
			r->wall_ms = now_ms() - started;
		}
	}
}

/* One read from the command; closes the pipe at its end. */
static void fill(struct stream *s, unsigned long long max_bytes)
{
	ssize_t n = read(s->in, s->buf, sizeof(s->buf));
	unsigned long long room;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		close(s->in);
		s->in = -1;
		return;
	}
	room = max_bytes - s->passed;
	s->off = 0;
	s->len = (unsigned long long)n < room ? (size_t)n : (size_t)room;
	s->passed += s->len;
	s->dropped += (unsigned long long)n - s->len;
}

/* One write onwards; false when nobody reads any more. */
static bool spill(struct stream *s)
{
	ssize_t n = write(s->out, s->buf + s->off, s->len);

	if (n < 0)
		return errno == EINTR || errno == EAGAIN;
	s->off += (size_t)n;
	s->len -= (size_t)n;
	return true;
}

static void discard_rest(struct stream *s)
{
	s->dropped += s->len;
	s->passed -= s->len;
	s->len = 0;
	if (s->in < 0)
		return;
	fcntl(s->in, F_SETFL, O_NONBLOCK);
	/* no more than a pipe holds: a writer that is still there may never stop */
	for (int i = 0; i < 256; i++) {
		ssize_t n = read(s->in, s->buf, sizeof(s->buf));

		if (n <= 0)
			break;
		s->dropped += (unsigned long long)n;
	}
}

/*
 * Passes output on for up to timeout_ms, or until a signal came; false when nobody reads any more.
 * answered, where it is wanted, tells that stdin has something, or has ended.
 */
static bool pump(struct stream *streams, int signals, long long timeout_ms, unsigned long long max_bytes,
		 bool *asked_to_stop, bool *answered)
{
	struct pollfd p[6];

	for (int i = 0; i < 2; i++) {
		struct stream *s = &streams[i];

		p[i] = (struct pollfd){.fd = s->len ? -1 : s->in, .events = POLLIN};
		/* without events it still reports that the reader has gone */
		p[2 + i] = (struct pollfd){.fd = s->out, .events = s->len ? POLLOUT : 0};
	}
	p[4] = (struct pollfd){.fd = signals, .events = POLLIN};
	p[5] = (struct pollfd){.fd = answered ? STDIN_FILENO : -1, .events = POLLIN};
	if (timeout_ms < 0)
		timeout_ms = 0;
	if (poll(p, 6, timeout_ms > INT_MAX ? INT_MAX : (int)timeout_ms) < 0)
		return errno == EINTR;
	if (answered)
		*answered = p[5].revents != 0;
	for (int i = 0; i < 2; i++) {
		if (p[2 + i].revents & (POLLERR | POLLHUP | POLLNVAL))
			return false;
		if (p[2 + i].revents & POLLOUT && !spill(&streams[i]))
			return false;
		if (p[i].revents)
			fill(&streams[i], max_bytes);
	}
	if (p[4].revents) {
		struct signalfd_siginfo info;

		while (read(signals, &info, sizeof(info)) == sizeof(info))
			if (info.ssi_signo != SIGCHLD)
				*asked_to_stop = true;
	}
	return true;
}

/* Says that the limit has passed; whether anybody may want to look before all is killed. */
static bool say_late(const struct options *o, const char *nonce)
{
	struct pollfd err = {.fd = STDERR_FILENO, .events = POLLOUT};
	char text[NONCE_MAX + 32];
	int n = snprintf(text, sizeof(text), "\n@orc %s late\n", nonce);

	return o->late_ms && poll(&err, 1, DRAIN_MS) == 1 && write(STDERR_FILENO, text, (size_t)n) == n;
}

/* From the fork to the last byte; false when nobody is there to read the report. */
static bool supervise(const struct options *o, pid_t child, struct stream *streams, int signals,
		      long long started, const char *nonce, struct report *r)
{
	long long deadline = started + o->limit_ms, step = deadline;
	enum state state = RUNNING;
	bool reader = true;

	while (state != DONE) {
		bool had_ended = r->ended, stop = false, answered = false, more;
		long long now;

		if (reader) {
			reader = pump(streams, signals, step - now_ms(), o->max_bytes, &stop,
				      state == LATE ? &answered : NULL);
			if (!reader)
				stop = true;
		} else {
			poll(NULL, 0, TICK_MS);
		}
		more = reap(child, started, r);
		now = now_ms();
		if (r->ended && !had_ended)
			r->leftovers = more ? signal_tree(0) : 0;

		if (state == RUNNING && !r->ended && !stop && now >= deadline && say_late(o, nonce)) {
			r->timeout = true;
			state = LATE;
			deadline = step = now + o->late_ms;
		} else if ((state == RUNNING && (r->ended || stop || now >= deadline)) ||
			   (state == LATE && (stop || answered || now >= deadline))) {
			if (state == RUNNING)
				r->timeout = !r->ended && now >= deadline;
			else /* the time of whoever looked is not the command's */
				started += now - (deadline - o->late_ms);
			state = TERMINATING;
			deadline = step = now + GRACE_MS;
			if (more)
				signal_tree(SIGTERM);
		} else if (state == TERMINATING && now >= deadline) {
			state = KILLING;
			deadline = now + GIVE_UP_MS;
		}
		if (state == KILLING) {
			signal_tree(SIGKILL);
			step = now + TICK_MS;
			r->stuck = more && now >= deadline;
			if (r->stuck)
				r->leftovers = signal_tree(0);
		}
		if (state != RUNNING && state != DRAINING && (!more || r->stuck)) {
			state = DRAINING;
			deadline = step = now + DRAIN_MS;
		}
		if (state == DRAINING) {
			bool quiet = !streams[0].len && !streams[1].len;

			if (!reader || now >= deadline || (quiet && streams[0].in < 0 && streams[1].in < 0))
				state = DONE;
		}
	}
	if (!r->ended)
		r->wall_ms = now_ms() - started;
	for (int i = 0; i < 2; i++)
		discard_rest(&streams[i]);
	return reader;
}

static long long tv_ms(struct timeval tv)
{
	return tv.tv_sec * 1000LL + tv.tv_usec / 1000;
}

/* A JSON string of text, or null; what is not plain ASCII becomes '?'. */
static void quote(char *out, size_t size, const char *text)
{
	size_t used = 0;

	if (!text) {
		snprintf(out, size, "null");
		return;
	}
	out[used++] = '"';
	for (; *text && used + 4 < size; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			out[used++] = '\\';
		out[used++] = c >= ' ' && c < 127 ? (char)c : '?';
	}
	out[used++] = '"';
	out[used] = '\0';
}

static void number_or_null(char *out, size_t size, bool known, int value)
{
	if (known)
		snprintf(out, size, "%d", value);
	else
		snprintf(out, size, "null");
}

static bool write_trailer(const char *nonce, const struct report *r, const struct prelude *p,
			  const char *error, const struct stream *streams)
{
	static const char *const truth[] = {"false", "true"};
	char text[4096], cpus[1024], quoted[600], code[16], sig[16];
	bool ran = r->ended && !error;
	struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
	int n;

	format_cpus(&p->cpus, cpus, sizeof(cpus));
	quote(quoted, sizeof(quoted), error);
	number_or_null(code, sizeof(code), ran && WIFEXITED(r->status), WEXITSTATUS(r->status));
	number_or_null(sig, sizeof(sig), ran && WIFSIGNALED(r->status), WTERMSIG(r->status));
	n = snprintf(text, sizeof(text),
		     "\n@orc %s {\"exit\": %s, \"signal\": %s, \"timeout\": %s, \"stuck\": %s, "
		     "\"wall_ms\": %lld, \"utime_ms\": %lld, \"stime_ms\": %lld, \"nvcsw\": %ld, "
		     "\"nivcsw\": %ld, \"maxrss_kib\": %ld, \"dropped_stdout\": %llu, "
		     "\"dropped_stderr\": %llu, \"leftovers\": %lu, \"cpus\": \"%s\", \"nice\": %d, "
		     "\"exec_error\": %s}\n",
		     nonce, code, sig, truth[r->timeout], truth[r->stuck], r->wall_ms,
		     tv_ms(r->usage.ru_utime), tv_ms(r->usage.ru_stime), r->usage.ru_nvcsw,
		     r->usage.ru_nivcsw, r->usage.ru_maxrss, streams[0].dropped, streams[1].dropped,
		     r->leftovers, cpus, p->nice, quoted);
	if (poll(&out, 1, DRAIN_MS) != 1 || !(out.revents & POLLOUT))
		return false;
	return write(STDERR_FILENO, text, (size_t)n) == n;
}

static int signal_descriptor(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static long long clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* All of stdin, up to size bytes of it. */
static size_t slurp(unsigned char *to, size_t size)
{
	long long deadline = now_ms() + NONCE_WAIT_MS;
	size_t len = 0;

	while (len < size) {
		struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
		long long left = deadline - now_ms();
		ssize_t n;

		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			usage("stdin does not end");
		n = read(STDIN_FILENO, to + len, size - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	return len;
}

static int freshen(const char *text)
{
	static union {
		struct rand_pool_info info;
		unsigned char raw[offsetof(struct rand_pool_info, buf) + ENTROPY_MAX];
	} pool;
	long long started = clock_ns(CLOCK_MONOTONIC);
	long long wanted = number(text, "--freshen", 1, LLONG_MAX - (1LL << 40)), was;
	size_t len = slurp(pool.raw + offsetof(struct rand_pool_info, buf), ENTROPY_MAX);
	int clock_error, entropy_error = 0, reseed_error = 0, fd;
	struct timespec ts;

	if (len < ENTROPY_MIN)
		usage("stdin must be at least %d bytes, not %zu", ENTROPY_MIN, len);
	pool.info.entropy_count = (int)len * 8;
	pool.info.buf_size = (int)len;
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool))
		entropy_error = errno;
	if (fd < 0 || ioctl(fd, RNDRESEEDCRNG))
		reseed_error = errno;

	was = clock_ns(CLOCK_REALTIME);
	wanted += clock_ns(CLOCK_MONOTONIC) - started;
	ts = (struct timespec){.tv_sec = wanted / 1000000000, .tv_nsec = wanted % 1000000000};
	clock_error = clock_settime(CLOCK_REALTIME, &ts) ? errno : 0;

	printf("{\"clock_ns\": %lld, \"was_ns\": %lld, \"clock_errno\": %d, \"entropy_bytes\": %zu, "
	       "\"entropy_errno\": %d, \"reseed_errno\": %d}\n",
	       clock_ns(CLOCK_REALTIME), was, clock_error, len, entropy_error, reseed_error);
	return fflush(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
	char nonce[NONCE_MAX + 1], first[NONCE_MAX + 1] = "", second[NONCE_MAX + 1] = "";
	static struct stream streams[2];
	struct prelude prelude = {0};
	struct report report = {0};
	struct options options;
	const char *error;
	int out[2], err[2], say[2], signals;
	pid_t child, self = getpid();
	long long started;
	bool reader;

	if (argc == 3 && !strcmp(argv[1], "--freshen"))
		return freshen(argv[2]);
	parse(argc, argv, &options);
	read_nonce(nonce);
	if (options.mark) {
		read_nonce(first);
		read_nonce(second);
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	set_oom_score("-900");
	signals = signal_descriptor();
	if (signals < 0 || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(say, O_CLOEXEC))
		usage("no descriptors: %s", strerror(errno));

	mark(&options, "begin", first);
	started = now_ms();
	child = fork();
	if (child == 0)
		become(&options, out[1], err[1], say[1], self);
	close(out[1]);
	close(err[1]);
	close(say[1]);
	streams[0] = (struct stream){.in = out[0], .out = STDOUT_FILENO};
	streams[1] = (struct stream){.in = err[0], .out = STDERR_FILENO};
	if (child < 0) {
		error = strerror(errno);
		mark(&options, "end", second);
		return write_trailer(nonce, &report, &prelude, error, streams) ? 0 : 1;
	}
	error = await_exec(&options, say[0], started + options.limit_ms, &prelude);
	close(say[0]);
	reader = supervise(&options, child, streams, signals, started, nonce, &report);
	mark(&options, "end", second);
	return reader && write_trailer(nonce, &report, &prelude, error, streams) ? 0 : 1;
}
