// SPDX-License-Identifier: GPL-2.0-only
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCHEMA_VERSION 2
#define MAX_OPTIONS 16
#define MAX_PARAMETERS 32
#define MAX_METRICS 160
#define MAX_HISTOGRAMS 64
#define MAX_PROOFS 160
#define STEPS_PER_OP 5

enum { EXIT_SYSCALL = 1, EXIT_USAGE = 2, EXIT_CANNOT_RUN = 4 };

static struct {
	const char *name;
	uint64_t clock_step_ns;
	unsigned int nr_parameters, nr_metrics, nr_histograms, nr_proofs;
	struct {
		char name[48];
		double value;
	} parameters[MAX_PARAMETERS];
	struct {
		char name[64];
		const char *unit, *better;
		double value;
		bool compare;
	} metrics[MAX_METRICS];
	struct {
		char name[64];
		const struct hist *hist;
	} histograms[MAX_HISTOGRAMS];
	struct {
		char name[96], said[400];
		bool ok;
	} proofs[MAX_PROOFS];
} doc;

static _Atomic bool stopped;

static void complain(const char *format, va_list arguments)
{
	fprintf(stderr, "%s: ", doc.name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
}

_Noreturn void bench_cannot(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain(format, arguments);
	va_end(arguments);
	exit(EXIT_CANNOT_RUN);
}

_Noreturn void bench_die(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	complain(format, arguments);
	va_end(arguments);
	exit(EXIT_SYSCALL);
}

/* --- options --- */

static _Noreturn void usage(const char *about, const struct bench_option *options, size_t nr)
{
	printf("Usage: %s [OPTION]...\n%s\nOne JSON document goes to standard output.\n\n", doc.name, about);
	for (size_t i = 0; i < nr; i++)
		printf("  --%-12s %s (%g)\n", options[i].name, options[i].help, options[i].value);
	printf("\nExit status: 0 done, 1 a system call failed, 2 wrong usage, 4 cannot run here.\n");
	exit(0);
}

static void parse_options(int argc, char **argv, const char *about, struct bench_option *options, size_t nr)
{
	struct option names[MAX_OPTIONS + 2] = { 0 };
	int which;

	if (nr > MAX_OPTIONS)
		bench_die("%zu options, room for %d", nr, MAX_OPTIONS);
	for (size_t i = 0; i < nr; i++)
		names[i] = (struct option){ options[i].name, required_argument, NULL, (int)i };
	names[nr] = (struct option){ "help", no_argument, NULL, 'h' };
	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		struct bench_option *option;
		char *end;

		if (which == 'h')
			usage(about, options, nr);
		if (which < 0 || (size_t)which >= nr) {
			fprintf(stderr, "Try '%s --help'.\n", doc.name);
			exit(EXIT_USAGE);
		}
		option = &options[which];
		option->value = strtod(optarg, &end);
		if (end == optarg || *end || !(option->value >= option->least && option->value <= option->most) ||
		    (option->whole && option->value != (double)(int64_t)option->value)) {
			fprintf(stderr, "%s: --%s wants a%s number from %g to %g, not '%s'\n", doc.name, option->name,
				option->whole ? " whole" : "", option->least, option->most, optarg);
			exit(EXIT_USAGE);
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument '%s'\n", doc.name, argv[optind]);
		exit(EXIT_USAGE);
	}
}

/* The smallest step the clock was seen to make: a guest without a good clock source counts in 4 ms. */
static uint64_t measure_clock_step(void)
{
	uint64_t smallest = 0, last = kt_now_ns();

	for (unsigned int steps = 0, reads = 0; steps < 20 && reads < 5000000; reads++) {
		uint64_t now = kt_now_ns();

		if (now == last)
			continue;
		if (!smallest || now - last < smallest)
			smallest = now - last;
		last = now;
		steps++;
	}
	return smallest;
}

void bench_start(int argc, char **argv, const char *name, const char *about, struct bench_option *options,
		 size_t nr)
{
	doc.name = name;
	parse_options(argc, argv, about, options, nr);
	for (size_t i = 0; i < nr; i++)
		bench_parameter(options[i].name, options[i].value);
	bench_parameter("cpus", kt_cpus());
	bench_parameter("page_size", (double)kt_page());
	doc.clock_step_ns = measure_clock_step();
}

uint64_t bench_clock_step_ns(void)
{
	return doc.clock_step_ns;
}

/* --- workers --- */

static pthread_barrier_t ready;

bool bench_stopped(void)
{
	return atomic_load_explicit(&stopped, memory_order_relaxed);
}

void bench_spin_ns(uint64_t ns)
{
	uint64_t end = kt_now_ns() + ns;

	while (kt_now_ns() < end && !bench_stopped())
		;
}

static void *thread_main(void *arg)
{
	struct bench_worker *self = arg;

	/* a failure shows when it is read back */
	(void)kt_pin(self->slot);
	pthread_barrier_wait(&ready);
	self->run(self);
	self->cpu_last = kt_only_cpu(0);
	return NULL;
}

static uint64_t counted(const struct bench_worker *worker)
{
	return atomic_load_explicit(worker->done ? worker->done : &worker->count, memory_order_relaxed);
}

void bench_run(struct bench_phase *phase, double seconds)
{
	const uint64_t half = (uint64_t)(seconds / 2 * (double)KT_NSEC);
	uint64_t first[BENCH_MAX_WORKERS], middle[BENCH_MAX_WORKERS], start, end;
	pthread_t threads[BENCH_MAX_WORKERS];
	unsigned int nr_threads = 0;

	if (phase->nr > BENCH_MAX_WORKERS)
		bench_die("%u workers, room for %d", phase->nr, BENCH_MAX_WORKERS);
	for (unsigned int i = 0; i < phase->nr; i++)
		nr_threads += !phase->workers[i].pid;
	atomic_store(&stopped, false);
	pthread_barrier_init(&ready, NULL, nr_threads + 1);
	for (unsigned int i = 0; i < phase->nr; i++) {
		if (!phase->workers[i].pid) {
			int error = pthread_create(&threads[i], NULL, thread_main, &phase->workers[i]);

			if (error)
				bench_die("a thread: %s", strerror(error));
		}
	}
	pthread_barrier_wait(&ready);
	kt_sleep_ns((uint64_t)(seconds / 10 * (double)KT_NSEC));
	start = kt_now_ns();
	for (unsigned int i = 0; i < phase->nr; i++)
		first[i] = counted(&phase->workers[i]);
	kt_sleep_ns(half);
	for (unsigned int i = 0; i < phase->nr; i++)
		middle[i] = counted(&phase->workers[i]);
	kt_sleep_ns(half);
	end = kt_now_ns();
	for (unsigned int i = 0; i < phase->nr; i++) {
		struct bench_worker *worker = &phase->workers[i];
		uint64_t last = counted(worker), late = last - middle[i];

		worker->in_window += last - first[i];
		if (!phase->rounds || late < worker->least_half)
			worker->least_half = late;
	}
	atomic_store(&stopped, true);
	for (unsigned int i = 0; i < phase->nr; i++) {
		struct bench_worker *worker = &phase->workers[i];
		bool alive = true, placed;

		if (worker->pid) {
			alive = !waitpid(worker->pid, NULL, WNOHANG);
			worker->cpu_last = alive ? kt_only_cpu(worker->pid) : -1;
		} else {
			pthread_join(threads[i], NULL);
		}
		placed = worker->cpu_last == kt_cpu(worker->slot);
		worker->alive = alive && (worker->alive || !phase->rounds);
		/* once it was elsewhere, that is what is told */
		if (!phase->rounds || worker->placed)
			worker->cpu_found = worker->cpu_last;
		worker->placed = placed && (worker->placed || !phase->rounds);
	}
	pthread_barrier_destroy(&ready);
	phase->seconds += (double)(end - start) / (double)KT_NSEC;
	phase->rounds++;
}

static void append(char *text, size_t size, const char *format, ...)
{
	size_t used = strlen(text);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text + used, size - used, format, arguments);
	va_end(arguments);
}

void bench_prove_phase(const struct bench_phase *phase)
{
	char worked[300] = "", placed[300] = "", name[96];
	bool all_worked = phase->nr && phase->rounds, all_placed = all_worked;

	for (unsigned int i = 0; i < phase->nr; i++) {
		const struct bench_worker *worker = &phase->workers[i];
		const char *comma = i ? ", " : "";

		all_worked = all_worked && worker->alive && worker->in_window && worker->least_half;
		all_placed = all_placed && worker->placed;
		append(worked, sizeof(worked), "%s%s %" PRIu64 " (%" PRIu64 ")%s", comma, worker->role,
		       worker->in_window, worker->least_half, worker->alive ? "" : " dead");
		append(placed, sizeof(placed), "%s%s on %d", comma, worker->role, worker->cpu_found);
		if (!worker->placed)
			append(placed, sizeof(placed), ", %d was asked for", kt_cpu(worker->slot));
	}
	snprintf(name, sizeof(name), "%s: all worked until the end", phase->name);
	bench_proof(name, all_worked, "done in %u rounds (the least in a late half): %s", phase->rounds, worked);
	snprintf(name, sizeof(name), "%s: all on their CPUs", phase->name);
	bench_proof(name, all_placed, "%s", placed);
}

double bench_rate(const struct bench_phase *phase, const char *role)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < phase->nr; i++)
		if (!strcmp(phase->workers[i].role, role))
			sum += phase->workers[i].in_window;
	return phase->seconds > 0 ? (double)sum / phase->seconds : 0;
}

/* --- steps --- */

static void make_step(struct bench_step *step, unsigned int threads, const struct bench_worker *thread,
		      size_t arg_size, const struct bench_worker *writer)
{
	step->threads = threads;
	step->writer = writer;
	snprintf(step->name, sizeof(step->name), "%ut%s", threads, writer ? "_writer" : "");
	step->workers = aligned_alloc(_Alignof(struct bench_worker),
				      (threads + 1) * sizeof(struct bench_worker));
	if (!step->workers)
		bench_die("no memory");
	for (unsigned int i = 0; i < threads; i++) {
		step->workers[i] = *thread;
		step->workers[i].slot = (int)i;
		step->workers[i].arg = (char *)thread->arg + i * arg_size;
	}
	if (writer) {
		step->workers[threads] = *writer;
		step->workers[threads].slot = kt_cpus() - 1;
	}
	step->phase = (struct bench_phase){ .name = step->name, .workers = step->workers,
					    .nr = threads + !!writer };
}

unsigned int bench_make_steps(struct bench_step *steps, unsigned int most, const struct bench_worker *thread,
			      size_t arg_size, const struct bench_worker *writer)
{
	unsigned int nr = 0;

	if (!most)
		most = (unsigned int)kt_cpus();
	if (most >= BENCH_MAX_WORKERS)
		most = BENCH_MAX_WORKERS - 1;
	for (unsigned int threads = 1; nr + 1 < BENCH_MAX_STEPS; threads *= 2) {
		if (threads > most)
			threads = most;
		make_step(&steps[nr++], threads, thread, arg_size, NULL);
		if (threads < (unsigned int)kt_cpus())
			make_step(&steps[nr++], threads, thread, arg_size, writer);
		if (threads == most)
			break;
	}
	return nr;
}

unsigned int bench_most_threads(const struct bench_step *steps, unsigned int nr)
{
	unsigned int most = 0;

	for (unsigned int i = 0; i < nr; i++)
		if (steps[i].threads > most)
			most = steps[i].threads;
	return most;
}

static double rate_of(const struct bench_step *steps, unsigned int nr, unsigned int threads)
{
	for (unsigned int i = 0; i < nr; i++)
		if (steps[i].threads == threads && !steps[i].writer)
			return bench_rate(&steps[i].phase, steps[i].workers[0].role);
	return 0;
}

void bench_report_step(const struct bench_step *steps, unsigned int nr, const struct bench_step *step,
		       const char *what)
{
	double rate = bench_rate(&step->phase, step->workers[0].role);
	char name[64];

	bench_prove_phase(&step->phase);
	snprintf(name, sizeof(name), "%s_per_s_%s", what, step->name);
	bench_metric(name, rate, "1/s", "higher", true);
	if (step->writer) {
		snprintf(name, sizeof(name), "writes_per_s_%s", step->name);
		bench_metric(name, bench_rate(&step->phase, step->workers[step->threads].role), "1/s", "higher",
			     false);
		snprintf(name, sizeof(name), "write_mean_us_%s", step->name);
		bench_metric(name, hist_mean(&step->wrote) / 1000, "us", "lower", true);
		snprintf(name, sizeof(name), "write_p99_us_%s", step->name);
		bench_metric(name, (double)hist_quantile(&step->wrote, 0.99) / 1000, "us", "lower", false);
		snprintf(name, sizeof(name), "write_ns_%s", step->name);
		bench_histogram(name, &step->wrote);
		snprintf(name, sizeof(name), "kept_%s", step->name);
		bench_metric(name, rate / rate_of(steps, nr, step->threads), "ratio", "higher", true);
	} else if (step->threads > 1) {
		snprintf(name, sizeof(name), "scaling_%s", step->name);
		bench_metric(name, rate / rate_of(steps, nr, 1), "ratio", "higher", true);
	}
}

/* --- the document --- */

void bench_parameter(const char *name, double value)
{
	if (doc.nr_parameters == MAX_PARAMETERS)
		bench_die("more than %d parameters", MAX_PARAMETERS);
	snprintf(doc.parameters[doc.nr_parameters].name, sizeof(doc.parameters[0].name), "%s", name);
	for (char *p = doc.parameters[doc.nr_parameters].name; *p; p++)
		if (*p == '-')
			*p = '_';
	doc.parameters[doc.nr_parameters++].value = value;
}

void bench_metric(const char *name, double value, const char *unit, const char *better, bool compare)
{
	if (!isfinite(value)) {
		bench_proof(name, false, "not a finite number");
		return;
	}
	if (doc.nr_metrics == MAX_METRICS)
		bench_die("more than %d metrics", MAX_METRICS);
	snprintf(doc.metrics[doc.nr_metrics].name, sizeof(doc.metrics[0].name), "%s", name);
	doc.metrics[doc.nr_metrics].value = value;
	doc.metrics[doc.nr_metrics].unit = unit;
	doc.metrics[doc.nr_metrics].better = better;
	doc.metrics[doc.nr_metrics++].compare = compare;
}

void bench_histogram(const char *name, const struct hist *hist)
{
	if (doc.nr_histograms == MAX_HISTOGRAMS)
		bench_die("more than %d histograms", MAX_HISTOGRAMS);
	snprintf(doc.histograms[doc.nr_histograms].name, sizeof(doc.histograms[0].name), "%s", name);
	doc.histograms[doc.nr_histograms++].hist = hist;
}

void bench_proof(const char *name, bool ok, const char *format, ...)
{
	va_list arguments;

	if (doc.nr_proofs == MAX_PROOFS)
		bench_die("more than %d proofs", MAX_PROOFS);
	snprintf(doc.proofs[doc.nr_proofs].name, sizeof(doc.proofs[0].name), "%s", name);
	va_start(arguments, format);
	vsnprintf(doc.proofs[doc.nr_proofs].said, sizeof(doc.proofs[0].said), format, arguments);
	va_end(arguments);
	doc.proofs[doc.nr_proofs++].ok = ok;
}

void bench_prove_clock(const char *what, double ns)
{
	char name[96];

	snprintf(name, sizeof(name), "the clock can time %s", what);
	bench_proof(name, doc.clock_step_ns && (double)doc.clock_step_ns * STEPS_PER_OP <= ns,
		    "steps of %" PRIu64 " ns, %s takes %.0f ns", doc.clock_step_ns, what, ns);
}

static void print_string(const char *text)
{
	putchar('"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			putchar('\\');
		putchar((unsigned char)*text < ' ' || *text == 127 ? '?' : *text);
	}
	putchar('"');
}

int bench_finish(void)
{
	printf("{\"schema_version\": %d, \"benchmark\": ", SCHEMA_VERSION);
	print_string(doc.name);
	printf(",\n \"parameters\": {");
	for (unsigned int i = 0; i < doc.nr_parameters; i++) {
		printf("%s", i ? ", " : "");
		print_string(doc.parameters[i].name);
		printf(": %.12g", doc.parameters[i].value);
	}
	printf("},\n \"metrics\": {");
	for (unsigned int i = 0; i < doc.nr_metrics; i++) {
		printf("%s\n  ", i ? "," : "");
		print_string(doc.metrics[i].name);
		printf(": {\"value\": %.9g, \"unit\": \"%s\", \"better\": \"%s\", \"compare\": %s}",
		       doc.metrics[i].value, doc.metrics[i].unit, doc.metrics[i].better,
		       doc.metrics[i].compare ? "true" : "false");
	}
	printf("},\n \"histograms\": {");
	for (unsigned int i = 0; i < doc.nr_histograms; i++) {
		printf("%s\n  ", i ? "," : "");
		print_string(doc.histograms[i].name);
		printf(": ");
		hist_json(doc.histograms[i].hist, stdout);
	}
	printf("},\n \"proofs\": [");
	for (unsigned int i = 0; i < doc.nr_proofs; i++) {
		printf("%s\n  {\"name\": ", i ? "," : "");
		print_string(doc.proofs[i].name);
		printf(", \"ok\": %s, \"said\": ", doc.proofs[i].ok ? "true" : "false");
		print_string(doc.proofs[i].said);
		printf("}");
	}
	printf("],\n \"clock_step_ns\": %" PRIu64 "}\n", doc.clock_step_ns);
	if (fflush(stdout) || ferror(stdout))
		bench_die("standard output: %s", strerror(errno));
	return 0;
}
