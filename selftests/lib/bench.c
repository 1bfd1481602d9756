// SPDX-License-Identifier: GPL-2.0-only
#include "bench.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCHEMA_VERSION 2
#define MAX_OPTIONS 16
#define MAX_PARAMETERS 32
#define MAX_METRICS 400
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
		const char *word;
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

static _Noreturn void give_up(int status, const char *format, va_list arguments)
{
	fprintf(stderr, "%s: ", doc.name);
	vfprintf(stderr, format, arguments);
	fputc('\n', stderr);
	exit(status);
}

#define GIVES_UP(name, status)					\
	_Noreturn void name(const char *format, ...)		\
	{							\
		va_list arguments;				\
								\
		va_start(arguments, format);			\
		give_up(status, format, arguments);		\
	}

GIVES_UP(bench_die, EXIT_SYSCALL)
GIVES_UP(bench_usage, EXIT_USAGE)
GIVES_UP(bench_cannot, EXIT_CANNOT_RUN)

/* --- options --- */

static _Noreturn void help(const char *about, const struct bench_option *options, size_t nr)
{
	printf("Usage: %s [OPTION]...\n%s\nOne JSON document goes to standard output.\n\n", doc.name, about);
	for (const struct bench_option *option = options; option < options + nr; option++) {
		printf("  --%-12s %s", option->name, option->help);
		if (option->words)
			printf(" (%s)\n", option->words[(size_t)option->value]);
		else if (option->flag)
			putchar('\n');
		else
			printf(" (%g)\n", option->value);
	}
	printf("\nExit status: 0 done, 1 a system call failed, 2 wrong usage, 4 cannot run here.\n");
	exit(0);
}

static void parse_word(struct bench_option *option, const char *text)
{
	size_t nr = 0;

	while (option->words[nr] && strcmp(option->words[nr], text))
		nr++;
	if (!option->words[nr])
		bench_usage("--%s does not know '%s'; see --help", option->name, text);
	option->value = (double)nr;
}

static void parse_number(struct bench_option *option, const char *text)
{
	char *end;

	option->value = strtod(text, &end);
	if (end == text || *end || !(option->value >= option->least && option->value <= option->most) ||
	    (option->whole && option->value != (double)(int64_t)option->value))
		bench_usage("--%s wants a%s number from %g to %g, not '%s'", option->name,
			    option->whole ? " whole" : "", option->least, option->most, text);
}

static void parse_options(int argc, char **argv, const char *about, struct bench_option *options, size_t nr)
{
	struct option names[MAX_OPTIONS + 2] = { 0 };
	int which;

	if (nr > MAX_OPTIONS)
		bench_die("%zu options, room for %d", nr, MAX_OPTIONS);
	for (size_t i = 0; i < nr; i++)
		names[i] = (struct option){ options[i].name, options[i].flag ? no_argument : required_argument, NULL,
					    (int)i };
	names[nr] = (struct option){ "help", no_argument, NULL, 'h' };
	while ((which = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (which == 'h')
			help(about, options, nr);
		if (which < 0 || (size_t)which >= nr)
			bench_usage("see --help");
		options[which].given = true;
		if (options[which].flag)
			options[which].value = 1;
		else if (options[which].words)
			parse_word(&options[which], optarg);
		else
			parse_number(&options[which], optarg);
	}
	if (optind < argc)
		bench_usage("unexpected argument '%s'", argv[optind]);
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
	bench_prepare_workers();
	for (size_t i = 0; i < nr; i++) {
		bench_parameter(options[i].name, options[i].value);
		if (options[i].words)
			doc.parameters[doc.nr_parameters - 1].word = options[i].words[(size_t)options[i].value];
	}
	bench_parameter("cpus", kt_cpus());
	bench_parameter("page_size", (double)kt_page());
	doc.clock_step_ns = measure_clock_step();
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

/* WHAT_mean_us_WHERE, of which what and where may be empty. */
static void name_times(char *name, size_t size, const char *what, const char *figure, const char *unit,
		       const char *where)
{
	snprintf(name, size, "%s%s%s%s%s%s%s", what, *what ? "_" : "", figure, *figure ? "_" : "", unit,
		 *where ? "_" : "", where);
}

void bench_times(const char *what, const char *unit, const char *where, const struct hist *hist,
		 unsigned int compare, uint64_t least)
{
	const double scale = strcmp(unit, "us") ? 1 : 1000;
	const struct {
		const char *name;
		double ns;
		bool compare;
	} figures[] = {
		{ "mean", hist_mean(hist), compare & BENCH_MEAN },
		{ "p50", (double)hist_quantile(hist, 0.5), false },
		{ "p90", (double)hist_quantile(hist, 0.9), false },
		{ "p99", (double)hist_quantile(hist, 0.99), compare & BENCH_P99 },
		{ "p999", (double)hist_quantile(hist, 0.999), false },
		{ "max", (double)hist->max, false },
	};
	char name[64], proof[96];

	for (size_t i = 0; i < KT_ARRAY(figures); i++) {
		name_times(name, sizeof(name), what, figures[i].name, unit, where);
		bench_metric(name, figures[i].ns / scale, unit, "lower", figures[i].compare);
	}
	name_times(name, sizeof(name), what, "", "ns", where);
	bench_histogram(name, hist);
	snprintf(proof, sizeof(proof), "%s: enough timed", name);
	bench_proof(proof, hist->count >= least, "%" PRIu64 ", at least %" PRIu64 " are needed", hist->count,
		    least);
}

static int by_value(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

double bench_median(double *values, size_t nr)
{
	qsort(values, nr, sizeof(*values), by_value);
	return nr ? (values[(nr - 1) / 2] + values[nr / 2]) / 2 : 0;
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

bool bench_doubt(char *text, size_t size)
{
	for (unsigned int i = 0; i < doc.nr_proofs; i++) {
		if (!doc.proofs[i].ok) {
			snprintf(text, size, "%s: %s", doc.proofs[i].name, doc.proofs[i].said);
			return true;
		}
	}
	return false;
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
	bench_end_processes();
	printf("{\"schema_version\": %d, \"benchmark\": ", SCHEMA_VERSION);
	print_string(doc.name);
	printf(",\n \"parameters\": {");
	for (unsigned int i = 0; i < doc.nr_parameters; i++) {
		printf("%s", i ? ", " : "");
		print_string(doc.parameters[i].name);
		printf(": ");
		if (doc.parameters[i].word)
			print_string(doc.parameters[i].word);
		else
			printf("%.12g", doc.parameters[i].value);
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
