// SPDX-License-Identifier: GPL-2.0-only
#include "counter.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRACEFS "/sys/kernel/tracing"
#define EVENT "events/mmap_lock/mmap_lock_acquire_returned"
#define PREFIX "locking-"

static int set(const struct counter *counter, const char *file, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", counter->path, file);
	return kt_write_file(path, text);
}

static void must_set(const struct counter *counter, const char *file, const char *text)
{
	int error = set(counter, file, text);

	if (error)
		kt_inconclusive("'%s' into %s of the trace: %s", text, file, strerror(error));
}

static void remove_instance(const char *name)
{
	struct counter counter;

	snprintf(counter.path, sizeof(counter.path), TRACEFS "/instances/%.40s", name);
	set(&counter, EVENT "/enable", "0");
	rmdir(counter.path);
}

const char *counter_try(struct counter *counter, const char *name)
{
	static char why[160];

	if (access(TRACEFS, F_OK))
		return "the kernel has no tracefs (CONFIG_FTRACE, CONFIG_ENABLE_DEFAULT_TRACERS)";
	if (access(TRACEFS "/events", F_OK) && mount("tracefs", TRACEFS, "tracefs", 0, NULL)) {
		snprintf(why, sizeof(why), "tracefs cannot be mounted: %s", strerror(errno));
		return why;
	}
	if (access(TRACEFS "/" EVENT "/enable", W_OK))
		return "the kernel has no event mmap_lock_acquire_returned";
	snprintf(counter->path, sizeof(counter->path), TRACEFS "/instances/" PREFIX "%.40s", name);
	remove_instance(strrchr(counter->path, '/') + 1);
	if (mkdir(counter->path, 0700)) {
		snprintf(why, sizeof(why), "no trace instance: %s", strerror(errno));
		return why;
	}
	must_set(counter, "tracing_on", "0");
	return NULL;
}

void counter_open(struct counter *counter, const char *name)
{
	const char *why = counter_try(counter, name);

	if (why)
		kt_skip("acquisitions of mmap_lock cannot be counted: %s", why);
}

void counter_filter(struct counter *counter, const char *format, ...)
{
	char text[160];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	must_set(counter, EVENT "/filter", text);
	must_set(counter, EVENT "/enable", "1");
}

void counter_start(struct counter *counter)
{
	char path[160];
	int fd;

	/* truncating it empties the buffers, and sets their statistics to 0 */
	snprintf(path, sizeof(path), "%s/trace", counter->path);
	fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	if (fd < 0)
		kt_inconclusive("the trace cannot be emptied: %s", strerror(errno));
	close(fd);
	must_set(counter, "tracing_on", "1");
}

static uint64_t statistic(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	/* "overrun: " is the tail of "commit overrun: " too, so a line's beginning is asked for */
	while (at && at != text && at[-1] != '\n')
		at = strstr(at + 1, name);
	if (!at)
		kt_inconclusive("the trace does not tell its '%s'", name);
	return strtoull(at + strlen(name), NULL, 10);
}

uint64_t counter_stop(struct counter *counter)
{
	char path[160], text[1024];
	uint64_t events = 0, lost = 0;
	struct dirent *entry;
	DIR *cpus;

	must_set(counter, "tracing_on", "0");
	snprintf(path, sizeof(path), "%s/per_cpu", counter->path);
	cpus = opendir(path);
	if (!cpus)
		kt_inconclusive("the trace has no %s", path);
	while ((entry = readdir(cpus))) {
		if (strncmp(entry->d_name, "cpu", 3))
			continue;
		snprintf(path, sizeof(path), "%s/per_cpu/%.16s/stats", counter->path, entry->d_name);
		if (kt_read_file(path, text, sizeof(text)) <= 0)
			kt_inconclusive("%s cannot be read", path);
		/* what was overwritten was counted, what never came in was not */
		events += statistic(text, "entries: ") + statistic(text, "overrun: ");
		lost += statistic(text, "commit overrun: ") + statistic(text, "dropped events: ");
	}
	closedir(cpus);
	if (lost)
		kt_inconclusive("%" PRIu64 " events of the trace were lost", lost);
	return events;
}

uint64_t counter_learn(struct counter *counter, int tid, void (*take)(void *), void *arg)
{
	static char text[65536];
	char path[160], *at = text;
	uint64_t mm = 0;

	/* an address is what a filter compares with, and is not printed otherwise */
	must_set(counter, "options/hash-ptr", "0");
	counter_filter(counter, "common_pid == %d", tid);
	counter_start(counter);
	take(arg);
	counter_stop(counter);
	snprintf(path, sizeof(path), "%s/trace", counter->path);
	if (kt_read_file(path, text, sizeof(text)) <= 0)
		kt_inconclusive("the trace cannot be read");
	while ((at = strstr(at, " mm="))) {
		uint64_t found = strtoull(at + 4, &at, 16);

		if (mm && found != mm)
			kt_inconclusive("a task takes the locks of two address spaces");
		mm = found;
	}
	if (!mm)
		kt_inconclusive("the trace does not show a lock that was taken");
	return mm;
}

void counters_remove(void)
{
	DIR *instances = opendir(TRACEFS "/instances");
	struct dirent *entry;

	while (instances && (entry = readdir(instances)))
		if (!strncmp(entry->d_name, PREFIX, strlen(PREFIX)))
			remove_instance(entry->d_name);
	if (instances)
		closedir(instances);
}
