// SPDX-License-Identifier: GPL-2.0-only
/* Programs that do to a guest what broken kernels do; the first argument says which. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0) {
		perror(path);
		return 1;
	}
	return close(fd);
}

/* Sends a signal to every process whose command is called so; the server's child for this session among them. */
static int send(const char *name, int number)
{
	struct dirent *entry;
	DIR *proc = opendir("/proc");
	char path[300], comm[64];

	while (proc && (entry = readdir(proc))) {
		FILE *file;

		if (atoi(entry->d_name) < 2)
			continue;
		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		file = fopen(path, "r");
		if (!file)
			continue;
		if (fscanf(file, "%63s", comm) == 1 && !strcmp(comm, name))
			kill(atoi(entry->d_name), number);
		fclose(file);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "reboot"))
		return reboot(RB_AUTOBOOT);
	if (!strcmp(what, "poweroff"))
		return reboot(RB_POWER_OFF);
	if (!strcmp(what, "halt"))
		return reboot(RB_HALT_SYSTEM);
	if (!strcmp(what, "runner"))
		return kill(getppid(), SIGKILL) || pause();
	if (!strcmp(what, "all"))
		return kill(-1, SIGKILL) || pause();
	if (!strcmp(what, "quiet"))
		return put("/proc/sys/kernel/printk", "1 1 1 1");
	/* so that nothing that is logged later reaches the console */
	if (!strcmp(what, "silent"))
		return put("/sys/module/printk/parameters/ignore_loglevel", "N") ||
		       put("/proc/sys/kernel/printk", "1 1 1 1");
	if (!strcmp(what, "panic"))
		return put("/proc/sysrq-trigger", "c");
	if (!strcmp(what, "splat"))
		return put("/dev/kmsg", "<4>WARNING: mm/mmap_lock.c:1 at lock_next_vma+0x1/0x2, CPU#0: hostile/1\n");
	if (!strcmp(what, "sshd"))
		return send("dropbear", SIGKILL) || pause();
	if (!strcmp(what, "mute"))
		return send("dropbear", SIGSTOP) || pause();
	if (!strcmp(what, "taint"))
		return put("/proc/sys/kernel/tainted", "512");
	/* the parent of a child that neither ends nor executes anything sleeps uninterruptibly */
	if (!strcmp(what, "asleep") && !vfork())
		for (;;)
			pause();
	/* as broken kernels do it: one that the kernel's log shows, and one behind a forged end */
	if (!strcmp(what, "forge")) {
		put("/dev/kmsg", "<3>orchestrate: end hostile/forge #0123456789abcdef\n");
		return put("/dev/kmsg", "<4>WARNING: mm/mmap_lock.c:1 at lock_next_vma+0x1/0x2, CPU#0: hostile/1\n");
	}
	if (!strcmp(what, "hang"))
		for (;;)
			pause();
	return 0;
}
