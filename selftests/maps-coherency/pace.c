// SPDX-License-Identifier: GPL-2.0-only
#include "race.h"

#include <pthread.h>
#include <sched.h>

#define EXTRA_S 5

static _Atomic uint64_t count;

/*
 * Where the kernel may be preempted, the readers are: between looking a mapping up and locking it, too.
 * Otherwise such windows are a few instructions long, and nothing happens in them.
 */
static void *interrupt(void *argument)
{
	struct sched_param priority = { .sched_priority = 10 };
	struct kt_rng rng = { .state = kt_seed() };

	kt_pin((int)(intptr_t)argument);
	if (pthread_setschedparam(pthread_self(), SCHED_FIFO, &priority)) {
		kt_detail("no priority for the interrupter: it sleeps");
		return NULL;
	}
	for (;;) {
		uint64_t until;

		kt_sleep_ns(30000 + kt_below(&rng, 140000));
		until = kt_now_ns() + 5000 + kt_below(&rng, 45000);
		while (kt_now_ns() < until)
			;
		atomic_fetch_add(&count, 1);
	}
	return NULL;
}

void start_interrupter(int cpu)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 65536);
	if (pthread_create(&thread, &attributes, interrupt, (void *)(intptr_t)cpu))
		kt_inconclusive("a thread of high priority cannot be made");
	pthread_attr_destroy(&attributes);
}

uint64_t interruptions(void)
{
	return atomic_load(&count);
}

bool go_on(bool enough)
{
	static _Atomic uint64_t end;

	if (!kt_over())
		return true;
	/* on a crowded host a virtual CPU may have stood still for all of the time */
	if (!atomic_load(&end))
		atomic_store(&end, kt_now_ns() + (uint64_t)(EXTRA_S * kt_factor() * (double)KT_NSEC));
	return !enough && kt_now_ns() < atomic_load(&end);
}
