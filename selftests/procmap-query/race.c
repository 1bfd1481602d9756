// SPDX-License-Identifier: GPL-2.0-only
/* Many threads that ask through one file, while nobody or somebody changes what they ask about. */
#include "cases.h"
#include "race_modifiers.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define MAX_STATES 8
#define MAX_SEGMENTS 12
#define MAX_NAME 160

struct segment {
	struct area area;
	char name[MAX_NAME], text[MAX_NAME + 120];
	const unsigned char *id;
	size_t id_length;
};

struct state {
	unsigned int nr;
	struct segment segment[MAX_SEGMENTS];
};

static struct fixture fixture;
static struct elf elf[2];
static ino_t inode[2];
static struct range range;
static struct state states[MAX_STATES];
static unsigned int nr_states;
static bool one_lock;	/* a whole search happens under mmap_lock, so that all of it sees one state */
static struct areas areas;

/* In shared memory: the modifier may be another process. */
static struct {
	_Atomic int stop, error;
	_Atomic unsigned int common;	/* the states that every answer so far may be of */
	_Atomic uint64_t changes, answers, texts;
} *shared;

static void begin(void)
{
	shared = kt_shared(kt_page());
	fixture_directory(&fixture);
}

/* --- nobody changes anything --- */

struct asker {
	pthread_t thread;
	int maps;
	uint64_t seed;
	int cpu;
	struct pm_checker checker;
};

static void *ask_quietly(void *arg)
{
	struct asker *asker = arg;
	struct kt_rng rng = { asker->seed };

	while (!kt_over()) {
		const struct area *area = &areas.area[kt_below(&rng, areas.nr)];
		uint64_t addr = area->start + kt_below(&rng, area->end - area->start);

		/* half of them exactly, half of them with whatever flags */
		pm_check(&asker->checker, addr, kt_below(&rng, 2) ? kt_below(&rng, PM_FLAGS + 1) : 0);
	}
	return NULL;
}

/* The same file's text, meanwhile: by read(), with the file's position, or by pread(). */
static void *read_quietly(void *arg)
{
	struct asker *asker = arg;
	struct kt_rng rng = { asker->seed };
	struct maps_text text = { 0 };

	while (!kt_over()) {
		size_t chunk = 500 + kt_below(&rng, 8000);
		int error;

		if (asker->checker.fd < 0) {
			error = maps_pread(asker->maps, chunk, &text);
		} else {
			lseek(asker->maps, 0, SEEK_SET);
			error = maps_read(asker->maps, chunk, &text);
		}
		if (error)
			kt_fail("reading maps while it is queried: %s", strerror(error));
		else if (text.length != areas.text.length || memcmp(text.data, areas.text.data, text.length))
			kt_fail("maps has another text while it is queried");
		atomic_fetch_add(&shared->texts, 1);
	}
	maps_free(&text);
	return NULL;
}

void race_quiet(const void *arg)
{
	static struct asker askers[THREADS + 2];
	unsigned int nr = arg ? THREADS + 2 : 2 * THREADS < KT_ARRAY(askers) ? 2 * THREADS : KT_ARRAY(askers);
	uint64_t asked = 0, least = UINT64_MAX;
	struct target target;
	struct areas again = { 0 };
	int maps;

	begin();
	fixture_map(&fixture, kt_seed());
	target_start(&target, &fixture);
	maps = pm_open(target.pid);
	areas_settle(&areas, maps);
	for (unsigned int i = 0; i < nr; i++) {
		bool reads = arg && i >= THREADS;

		askers[i].maps = maps;
		askers[i].seed = kt_seed() + i;
		askers[i].checker.fd = reads && i > THREADS ? -1 : maps;
		askers[i].checker.areas = &areas;
		if (pthread_create(&askers[i].thread, NULL, reads ? read_quietly : ask_quietly, &askers[i]))
			kt_inconclusive("no thread");
	}
	for (unsigned int i = 0; i < nr; i++) {
		pthread_join(askers[i].thread, NULL);
		asked += askers[i].checker.asked;
		if ((!arg || i < THREADS) && askers[i].checker.found < least)
			least = askers[i].checker.found;
	}
	areas_unchanged(&areas, &again, maps);
	target_end(&target);
	fixture_remove(&fixture);
	kt_work("queries", asked, 1000);
	kt_work("found by each thread", least, 20);
	kt_work("texts", shared->texts, arg ? 2 : 0);
}

/* --- somebody does: what may be found --- */

static const struct segment *first_behind(const struct state *state, uint64_t addr)
{
	for (unsigned int i = 0; i < state->nr; i++)
		if (state->segment[i].area.end > addr)
			return &state->segment[i];
	return NULL;
}

/* Whether an answer, or an error, is what this segment gives. */
static bool is_answer(const struct segment *segment, const struct pm_ask *ask, const struct procmap_query *query,
		      int error)
{
	const struct area *area = &segment->area;

	if (error == ENOENT)
		return false;
	if (error)
		return (ask->name_size && area->name_length && area->name_length + 1 > ask->name_size) ||
		       (ask->id_size && segment->id_length > ask->id_size);
	if (pm_differs(area, ask, query) || query->vma_page_size != kt_page())
		return false;
	if (!ask->id_size)
		return true;
	return query->build_id_size == segment->id_length && !memcmp(ask->id, segment->id, segment->id_length);
}

/*
 * Whether an answer is legal, if the search sees only these states (bits), each of its steps any of them.
 * Without per-VMA locks a search is one step, whatever it passes over.
 */
static bool is_legal(unsigned int among, const struct pm_ask *ask, const struct procmap_query *query, int error)
{
	uint64_t from[MAX_STATES * MAX_SEGMENTS];
	unsigned int nr = 1;

	from[0] = ask->addr;
	for (unsigned int i = 0; i < nr; i++) {
		for (unsigned int k = 0; k < nr_states; k++) {
			const struct segment *segment = first_behind(&states[k], from[i]);
			bool passes = segment && area_passes(&segment->area, ask->flags), known = false;

			if (!(among & 1U << k))
				continue;
			if (!segment || (!(ask->flags & PM_NEXT) && (!passes || segment->area.start > ask->addr))) {
				if (error == ENOENT)
					return true;
				continue;
			}
			if (passes) {
				if (is_answer(segment, ask, query, error))
					return true;
				continue;
			}
			/* passed over; it goes on behind it, if it has not already */
			for (unsigned int j = 0; j < nr; j++)
				known |= from[j] == segment->area.end;
			if (!known && nr < KT_ARRAY(from))
				from[nr++] = segment->area.end;
		}
	}
	return false;
}

/* What was to be found, for whoever reads the log. */
static void wrong(const struct pm_ask *ask, const struct procmap_query *query, int error)
{
	char text[4000], answer[300];
	size_t used = 0;

	for (unsigned int k = 0; k < nr_states; k++) {
		used += (size_t)snprintf(text + used, sizeof(text) - used, "state %u\n", k);
		for (unsigned int i = 0; i < states[k].nr && used + 400 < sizeof(text); i++)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n",
						 states[k].segment[i].text);
	}
	kt_fail_text(text, used, "no state gives this answer: address %" PRIx64 ", flags %" PRIx64
		     ", room for a name of %u and an id of %u bytes: %s, id of %u", ask->addr, ask->flags,
		     ask->name_size, ask->id_size, pm_text(ask, query, error, answer, sizeof(answer)),
		     error ? 0 : query->build_id_size);
}

static void judge(const struct pm_ask *ask, const struct procmap_query *query, int error)
{
	unsigned int all = (1U << nr_states) - 1, legal = 0;

	if (error && error != ENOENT && !pm_too_small(error)) {
		wrong(ask, query, error);
		return;
	}
	for (unsigned int k = 0; k < nr_states; k++)
		if (is_legal(1U << k, ask, query, error))
			legal |= 1U << k;
	if (!legal && (one_lock || !is_legal(all, ask, query, error)))
		wrong(ask, query, error);
	if (legal)
		atomic_fetch_and(&shared->common, legal);
}

/* --- what the states are: the text of maps between the steps, when nobody else is about --- */

static void record(struct state *state, int maps)
{
	uint64_t low = (uintptr_t)range.at - kt_page(), high = (uintptr_t)range.at + (RANGE_PAGES + 1) * kt_page();

	areas_read(&areas, maps);
	state->nr = 0;
	for (size_t i = 0; i < areas.nr; i++) {
		struct segment *segment = &state->segment[state->nr];
		const struct area *area = &areas.area[i];

		if (area->start < low || area->end > high)
			continue;
		if (state->nr++ == MAX_SEGMENTS || area->name_length >= MAX_NAME)
			kt_inconclusive("more mappings in the range than there should be");
		segment->area = *area;
		memcpy(segment->name, area->name, area->name_length + 1);
		snprintf(segment->text, sizeof(segment->text), "%.*s", (int)area->length, area->text);
		segment->id_length = 0;
		for (int j = 0; j < 2; j++) {
			if (area->inode == inode[j] && area->flags & PM_FILE) {
				segment->id = elf[j].id;
				segment->id_length = elf[j].id_length;
			}
		}
	}
}

static bool same_state(const struct state *one, const struct state *other)
{
	if (one->nr != other->nr)
		return false;
	for (unsigned int i = 0; i < one->nr; i++)
		if (strcmp(one->segment[i].text, other->segment[i].text))
			return false;
	return true;
}

/* Go round, and note what is new; whether nothing was. */
static bool rehearse(const struct modifier *modifier, int maps)
{
	unsigned int before = nr_states;

	for (unsigned int i = 0; i < modifier->steps; i++) {
		static struct state now;
		unsigned int k = 0;
		int error = modifier->step(&range, i);

		if (error)
			kt_inconclusive("step %u: %s", i, strerror(error));
		record(&now, maps);
		while (k < nr_states && !same_state(&states[k], &now))
			k++;
		if (k == MAX_STATES)
			kt_inconclusive("more states than there should be");
		if (k == nr_states)
			states[nr_states++] = now;
	}
	return nr_states == before;
}

static void prepare(const struct modifier *modifier, int maps)
{
	struct kt_rng rng = { kt_seed() };
	size_t all = (RANGE_PAGES + 2) * kt_page();
	struct stat stat_of;
	int fence;

	elf[0] = (struct elf){ .name = "first file", .id_length = 20 };
	elf[1] = (struct elf){ .name = "the second file, with a longer name", .id_length = 8, .note_at = 1000 };
	for (int i = 0; i < 2; i++) {
		range.file[i] = elf_file(&fixture, &elf[i], &rng);
		if (fstat(range.file[i], &stat_of))
			kt_inconclusive("fstat: %s", strerror(errno));
		inode[i] = stat_of.st_ino;
	}
	fence = fixture_file(&fixture, "fence", "x", 1);
	range.at = (char *)kt_map(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1) + kt_page();
	kt_map(range.at - kt_page(), kt_page(), PROT_NONE, MAP_PRIVATE | MAP_FIXED, fence);
	/* whatever is asked for, this is it: no search goes on into what is behind */
	kt_map(range.at + RANGE_PAGES * kt_page(), kt_page(), PROT_READ | PROT_WRITE | PROT_EXEC,
	       MAP_SHARED | MAP_FIXED, fence);
	modifier->prepare(&range);
	areas_settle(&areas, maps);
	record(&states[nr_states++], maps);
	rehearse(modifier, maps);
	for (unsigned int k = 0; k < nr_states; k++)
		for (unsigned int i = 0; i < states[k].nr; i++) {
			states[k].segment[i].area.name = states[k].segment[i].name;
			states[k].segment[i].area.text = states[k].segment[i].text;
		}
	if (!rehearse(modifier, maps) || nr_states < 2)
		kt_inconclusive("the steps do not lead round in a circle");
}

/* --- those who take part --- */

static void go_round(const struct modifier *modifier, uint64_t seed)
{
	struct kt_rng rng = { seed };

	while (!atomic_load(&shared->stop)) {
		for (unsigned int i = 0; i < modifier->steps; i++) {
			int error = modifier->step(&range, i);

			if (error)
				atomic_store(&shared->error, error);
			atomic_fetch_add(&shared->changes, 1);
			for (uint64_t j = kt_below(&rng, 3000); j; j--)
				__asm__ volatile("" ::: "memory");
		}
	}
}

static void *modify(void *arg)
{
	go_round(arg, kt_seed());
	return NULL;
}

static void *ask(void *arg)
{
	struct asker *asker = arg;
	struct kt_rng rng = { asker->seed };
	unsigned char id[PM_ID_MAX];

	if (asker->cpu >= 0)
		kt_pin(asker->cpu);
	while (!atomic_load(&shared->stop)) {
		struct pm_ask ask = { .name = asker->checker.name, .id = id };
		struct procmap_query query;
		uint64_t what = kt_random(&rng);
		int error;

		ask.addr = (uintptr_t)range.at + kt_below(&rng, RANGE_PAGES * kt_page());
		/* exactly and with nothing else, as most who ask do; the very border; or anything */
		if (what & 1)
			ask.flags = (what >> 8) & PM_FLAGS;
		if (what & 2)
			ask.addr &= ~(uint64_t)(kt_page() - 1);
		if (what & 4)
			ask.name_size = what & 8 ? 20 + (uint32_t)((what >> 16) & 63) : PATH_MAX;
		if (what & 0x10)
			ask.id_size = what & 0x20 && what & 0x40 ? 10 : sizeof(id);
		error = pm_ask(asker->maps, &ask, &query);
		judge(&ask, &query, error);
		asker->checker.asked++;
		asker->checker.found += !error;
	}
	return NULL;
}

/*
 * A while of it, with the changes made by a thread of this process or by another process. Whether they were
 * seen: no state alone explains all the answers.
 */
static bool race(const struct modifier *modifier, bool other, double seconds)
{
	static struct asker askers[THREADS];
	uint64_t until = kt_now_ns() + (uint64_t)(seconds * (double)KT_NSEC);
	unsigned int nr = 0;
	pthread_t thread;
	pid_t pid = 0;
	int maps;

	atomic_store(&shared->stop, 0);
	atomic_store(&shared->common, (1U << nr_states) - 1);
	if (other) {
		pid = kt_fork();
		if (!pid) {
			kt_pin(0);
			go_round(modifier, kt_seed());
			/* the last ones may still be asking */
			for (;;)
				pause();
		}
	}
	maps = pm_open(pid);
	memset(askers, 0, sizeof(askers));
	for (; nr < THREADS; nr++) {
		askers[nr].maps = maps;
		askers[nr].seed = kt_seed() + nr + 100 * other;
		/* another process changes and one who asks always run at once; threads run as it comes */
		askers[nr].cpu = !other || kt_cpus() < 2 ? -1 : 1 + (int)nr % (kt_cpus() - 1);
		if (pthread_create(&askers[nr].thread, NULL, ask, &askers[nr]))
			kt_inconclusive("no thread");
	}
	if (!other && pthread_create(&thread, NULL, modify, (void *)(uintptr_t)modifier))
		kt_inconclusive("no thread");
	while (kt_now_ns() < until)
		kt_sleep_ns(2000000);
	atomic_store(&shared->stop, 1);
	for (nr = 0; nr < THREADS; nr++) {
		pthread_join(askers[nr].thread, NULL);
		atomic_fetch_add(&shared->answers, askers[nr].checker.asked);
	}
	if (!other) {
		pthread_join(thread, NULL);
	} else {
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	close(maps);
	return !shared->common;
}

void race_changes(const void *arg)
{
	const struct modifier *modifier = arg;
	unsigned int rounds = modifier->holes ? 1 : 2, seen = 0;
	int maps;

	maps = pm_open(0);
	if (modifier->names && !fixture_can_name())
		kt_skip("this kernel gives no names to memory (CONFIG_ANON_VMA_NAME)");
	begin();
	one_lock = !kt_kernel_since(6, 17) || kt_per_vma_lock() == 0;
	prepare(modifier, maps);
	if (!modifier->holes)
		seen += race(modifier, false, kt_seconds() / rounds);
	seen += race(modifier, true, kt_seconds() / rounds);
	if (shared->error)
		kt_inconclusive("the range could not be changed: %s", strerror(shared->error));
	fixture_remove(&fixture);
	kt_work("answers", shared->answers, 300);
	kt_work("changes", shared->changes, 20);
	kt_work("rounds with changes seen", seen, rounds);
	kt_figure("states", nr_states);
}
