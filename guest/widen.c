// SPDX-License-Identifier: GPL-2.0-only
/*
 * Make windows of a few instructions wide: delay those who pass given points of the kernel.
 *
 * Each point is a kprobe whose handler only burns time. It never sleeps: most of the points that matter are
 * inside RCU or under a spinlock. It changes nothing but time, so a right kernel stays right with it.
 *
 *   insmod widen.ko points=lock_next_vma+0x31,__vma_start_write spins=3000,500 permille=100,1000 comm=locking
 *
 * A point is SYMBOL, SYMBOL+OFFSET, or an address where a symbol stands for several functions. The other
 * lists go with it, the last value of each for all further points. /sys/module/widen/parameters/passed and
 * delayed have a number for each point: the proof that the windows were wide at all.
 */
#include <linux/atomic.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/percpu.h>
#include <linux/prandom.h>
#include <linux/processor.h>
#include <linux/sched.h>
#include <linux/string.h>

#define MAX_POINTS 16
#define MAX_SPINS 1000000	/* some tens of ms at most, far below what the watchdogs take for a hang */

static char *points[MAX_POINTS];
static unsigned int nr_points;
module_param_array(points, charp, &nr_points, 0444);
MODULE_PARM_DESC(points, "where: SYMBOL[+OFFSET] or 0xADDRESS, up to 16");

static unsigned int spins[MAX_POINTS] = { 3000 };
static unsigned int nr_spins = 1;
module_param_array(spins, uint, &nr_spins, 0444);
MODULE_PARM_DESC(spins, "how long: turns of cpu_relax()");

static unsigned int permille[MAX_POINTS] = { 1000 };
static unsigned int nr_permille = 1;
module_param_array(permille, uint, &nr_permille, 0444);
MODULE_PARM_DESC(permille, "how often, of 1000 times that a task passes");

static char *comm = "";
module_param(comm, charp, 0444);
MODULE_PARM_DESC(comm, "whom: tasks whose name begins so; empty for all");

static int tgid;
module_param(tgid, int, 0444);
MODULE_PARM_DESC(tgid, "whom: the tasks of this process only");

static unsigned long long seed = 1;
module_param(seed, ullong, 0444);
MODULE_PARM_DESC(seed, "of the choice of the times, beside the CPU's number");

struct point {
	struct kprobe probe;
	unsigned int spins, permille;
	atomic_long_t passed, delayed;
};

static struct point made[MAX_POINTS];
static DEFINE_PER_CPU(struct rnd_state, chance);

static bool concerns_us(void)
{
	if (tgid && current->tgid != tgid)
		return false;
	return !*comm || str_has_prefix(current->comm, comm);
}

static int delay(struct kprobe *probe, struct pt_regs *regs)
{
	struct point *point = container_of(probe, struct point, probe);

	if (!concerns_us())
		return 0;
	atomic_long_inc(&point->passed);
	/* preemption is off in a handler, so the CPU stays the same */
	if (prandom_u32_state(this_cpu_ptr(&chance)) % 1000 >= point->permille)
		return 0;
	atomic_long_inc(&point->delayed);
	for (unsigned int n = 0; n < point->spins; n++)
		cpu_relax();
	return 0;
}
NOKPROBE_SYMBOL(delay);

static int show(char *buffer, size_t field)
{
	int length = 0;

	for (unsigned int i = 0; i < nr_points; i++)
		length += sysfs_emit_at(buffer, length, "%s%ld", i ? "," : "",
					atomic_long_read((atomic_long_t *)((char *)&made[i] + field)));
	return length + sysfs_emit_at(buffer, length, "\n");
}

static int show_passed(char *buffer, const struct kernel_param *param)
{
	return show(buffer, offsetof(struct point, passed));
}

static int show_delayed(char *buffer, const struct kernel_param *param)
{
	return show(buffer, offsetof(struct point, delayed));
}

static const struct kernel_param_ops passed_ops = { .get = show_passed };
static const struct kernel_param_ops delayed_ops = { .get = show_delayed };
module_param_cb(passed, &passed_ops, NULL, 0444);
module_param_cb(delayed, &delayed_ops, NULL, 0444);

/* SYMBOL, SYMBOL+OFFSET or 0xADDRESS; the text is cut at the plus. */
static int locate(struct kprobe *probe, char *text)
{
	unsigned long long address;
	char *plus;
	int error;

	if (text[0] == '0') {
		error = kstrtoull(text, 16, &address);
		probe->addr = (kprobe_opcode_t *)(unsigned long)address;
		return error;
	}
	plus = strchr(text, '+');
	if (plus) {
		*plus = 0;
		error = kstrtouint(plus + 1, 0, &probe->offset);
		if (error)
			return error;
	}
	probe->symbol_name = text;
	return 0;
}

static void remove_points(unsigned int nr)
{
	while (nr--)
		unregister_kprobe(&made[nr].probe);
}

static int __init widen_init(void)
{
	int cpu, error;

	if (!nr_points || !nr_spins || !nr_permille)
		return -EINVAL;
	for_each_possible_cpu(cpu)
		prandom_seed_state(per_cpu_ptr(&chance, cpu), seed + ((u64)cpu << 32));
	for (unsigned int i = 0; i < nr_points; i++) {
		struct point *point = &made[i];

		point->spins = min(spins[min(i, nr_spins - 1)], MAX_SPINS);
		point->permille = permille[min(i, nr_permille - 1)];
		point->probe.pre_handler = delay;
		error = locate(&point->probe, points[i]);
		if (!error)
			error = register_kprobe(&point->probe);
		if (error) {
			pr_err("point %u, %s+%#x: %d\n", i, points[i], point->probe.offset, error);
			remove_points(i);
			return error;
		}
		pr_info("point %u at %pS\n", i, point->probe.addr);
	}
	return 0;
}

static void __exit widen_exit(void)
{
	for (unsigned int i = 0; i < nr_points; i++)
		pr_info("point %u: passed %ld, delayed %ld, missed %lu\n", i, atomic_long_read(&made[i].passed),
			atomic_long_read(&made[i].delayed), made[i].probe.nmissed);
	remove_points(nr_points);
}

module_init(widen_init);
module_exit(widen_exit);
MODULE_DESCRIPTION("Delays at given points of the kernel, for tests of races");
MODULE_LICENSE("GPL");
