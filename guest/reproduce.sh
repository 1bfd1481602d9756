
# ---- what follows is the same for every cell -------------------------------------------------------

# The first lines of reports of the kernel. A plain search, for orchestrate itself reads consoles better.
SIGNS='Kernel panic - not syncing|BUG: |WARNING: |Oops: |Oops - |Oops ?\[|Internal error: |general protection fault'
SIGNS="$SIGNS"'|Unable to handle kernel|UBSAN: |rcu: INFO: |INFO: task .* blocked|INFO: rcu_|watchdog: '
SIGNS="$SIGNS"'|INFO: possible |INFO: suspicious |double fault|unreferenced object|invoked oom-killer'
SIGNS="$SIGNS"'|buggy \.next function|stack-protector: '

usage() {
	# the comment at the top, up to the first line that is none
	sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$self"
}

say() { printf '== %s\n' "$*"; }

wrong() {
	printf 'reproduce.sh: %s\n' "$*" >&2
	exit 2
}

die() {
	printf 'reproduce.sh: %s\n' "$*" >&2
	exit 3
}

# Nothing that a guest says reaches the terminal as it is.
clean() { tr -d '\000-\010\013-\037\177' | tr '\200-\377' '?'; }

pause() { sleep 0.2 2>/dev/null || sleep 1; }

now() { date +%s; }

alive() { [ -n "$qemu" ] && kill -0 "$qemu" 2>/dev/null; }

# ---- the archive with this script's own keys, in the "newc" form of cpio(5)

pad() {
	case $(($1 % 4)) in
	1) printf '\0\0\0' ;;
	2) printf '\0\0' ;;
	3) printf '\0' ;;
	esac
}

entry() { # MODE NAME [FILE]
	size=0
	[ $# -lt 3 ] || size=$(($(wc -c <"$3")))
	number=$((number + 1))
	length=$((${#2} + 1))
	printf '070701%08X%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\0' \
		"$number" "$1" 0 0 1 0 "$size" 0 0 0 0 "$length" 0 "$2"
	pad $((110 + length))
	[ $# -lt 3 ] || cat "$3"
	pad "$size"
}

# dropbear's form of an Ed25519 key is its type and the private part, as both stand in OpenSSH's
# unencrypted form (PROTOCOL.key), 106 and 157 bytes from its start.
make_keys() {
	for name in user host; do
		ssh-keygen -q -t ed25519 -N '' -C reproduce -f "$tmp/$name" || die 'ssh-keygen failed'
	done
	sed -e '/^-/d' "$tmp/host" | base64 -d >"$tmp/host.raw" || die 'base64 failed'
	{ tail -c +107 "$tmp/host.raw" | head -c 15; tail -c +158 "$tmp/host.raw" | head -c 68; } >"$tmp/host_key"
	number=0
	{
		entry 000041C0 root
		entry 000041C0 root/.ssh
		entry 00008180 root/.ssh/authorized_keys "$tmp/user.pub"
		entry 000041ED etc
		entry 000041ED etc/orchestrate
		entry 00008180 etc/orchestrate/host_key "$tmp/host_key"
		entry 00000000 'TRAILER!!!'
	} >"$tmp/keys"
	printf 'guest %s\n' "$(cut -d ' ' -f 1,2 "$tmp/host.pub")" >"$tmp/known_hosts"
}

# ---- one guest

start() {
	boots=$((boots + 1))
	guest=$tmp/guest-$boots
	mkdir "$guest" && cd "$guest" || die "no room in $tmp"
	: >console
	: >monitor.out
	mkfifo monitor || die 'mkfifo failed'
	exec 3<>monitor
	say "booting $release ($arch, $accel)"
	machine "$accel" -kernel "$run/$kernel" -initrd "$tmp/initrd" \
		-append "$cmdline_before orc.nonce=$$-$boots orc.epoch=$(now)$cmdline_after" \
		-chardev file,id=console,path=console -serial chardev:console -monitor stdio \
		<monitor >monitor.out 2>qemu.err 3>&- &
	qemu=$!
}

stop() {
	if alive; then
		echo quit >&3
		left=25
		while alive && [ "$left" -gt 0 ]; do
			left=$((left - 1))
			pause
		done
		kill "$qemu" 2>/dev/null
		wait "$qemu" 2>/dev/null
	fi
	qemu=
	exec 3>&-
}

await() { # PATTERN SECONDS: until it is on the console
	until_=$(($(now) + $2))
	until grep -q -e "$1" console; do
		alive || { grep -q -e "$1" console; return; }
		[ "$(now)" -lt "$until_" ] || return 1
		pause
	done
}

in_guest() { # SECONDS COMMAND
	limit_=$1
	shift
	# of a terminal only the foreground may read, and timeout(1) would take it out of that
	bounded="timeout $foreground -k 5 $limit_"
	[ -z "$tty" ] || bounded=
	$bounded ssh -F /dev/null -p "$port" -i "$tmp/user" -o IdentitiesOnly=yes -o IdentityAgent=none \
		-o HostKeyAlias=guest -o UserKnownHostsFile="$tmp/known_hosts" -o GlobalKnownHostsFile=/dev/null \
		-o StrictHostKeyChecking=yes -o BatchMode=yes -o ConnectTimeout=20 -o LogLevel=ERROR \
		$tty root@127.0.0.1 "$@"
}

not_up() {
	# a QEMU that refuses to start says nothing about the kernel
	if [ ! -s console ] && ! alive; then
		clean <qemu.err >&2
		die "$qemu_program did not start"
	fi
	bad "the guest did not come up: $1"
	reports 0 || tail -n 20 console | clean
	clean <qemu.err
	stop
	return 1
}

boot() {
	start
	if [ "$accel" = kvm ] && [ "$asked" = auto ] && ! await 'Linux version' 20; then
		say 'no sign of life under KVM within 20 s: emulating'
		stop
		accel=tcg
		start
	fi
	await 'Linux version' 60 || { not_up 'no banner of the kernel'; return 1; }
	began=$(now)
	await 'orchestrate: ready' 120 || { not_up 'init was not done'; return 1; }
	factor=$(($(now) - began))
	# a kernel made for diagnosis is slow to boot as well: what it slows down counts once
	[ "$factor" -ge "$slower" ] || factor=$slower
	[ "$factor" -le $((20 * slower)) ] || factor=$((20 * slower))
	port=
	left=50
	while [ -z "$port" ] && [ "$left" -gt 0 ] && alive; do
		echo 'info usernet' >&3
		pause
		port=$(clean <monitor.out | sed -n 's/.*HOST_FORWARD\] *[0-9]* *127\.0\.0\.1 *\([0-9]*\) .*/\1/p' | tail -n 1)
		left=$((left - 1))
	done
	[ -n "$port" ] || { not_up 'QEMU names no port'; return 1; }
	left=$((30 * factor))
	until in_guest 60 true </dev/null 2>ssh.err; do
		left=$((left - 1))
		{ alive && [ "$left" -gt 0 ]; } || { not_up "$(tail -n 1 ssh.err | clean)"; return 1; }
		pause
	done
	tainted=$(in_guest 60 'cat /proc/sys/kernel/tainted' </dev/null 2>/dev/null | clean)
	say "it answers after $(($(now) - began)) s"
	reports 0 && bad 'the kernel printed a report while it booted'
	return 0
}

# ---- one program

bad() {
	trouble="$trouble${trouble:+; }$1"
	say "FAILED: $1"
}

reports() { # BYTES: prints what the kernel reported after that many bytes of console
	tail -c "+$(($1 + 1))" console | clean | grep -E -e "$SIGNS" | head -n 20 >signs
	[ -s signs ] && sed 's/^/   /' signs
}

field() { printf '%s\n' "$report" | sed -n 's/.*"'"$1"'": "\{0,1\}\([^",}]*\).*/\1/p'; }

run_program() { # ID: in the guest that is there
	program "$1"
	limit=$((limit * factor))
	say "$1 (at most $limit s)"
	[ -z "$widened" ] || say "its windows ($widened) are not widened here: use --orchestrate"
	before=$(($(wc -c <console)))
	nonce=$$-$(now)-$boots
	printf '%s\n' "$nonce" | in_guest $((limit + 20 * factor)) "/opt/orchestrate/orc-exec --limit $limit \
		--env ORCHESTRATE_FACTOR=$factor $command" >out 2>err
	clean <out
	report=$(sed -n "s/^@orc $nonce //p" err | tail -n 1)
	# the report begins with a newline of its own
	sed -e "/^@orc $nonce /d" err | clean | sed -e '${/^$/d;}'
	verdict
	late=$before
	if alive && [ -n "$report" ]; then
		after=$(in_guest 60 'cat /proc/sys/kernel/tainted' </dev/null 2>/dev/null | clean)
		[ "$after" = "$tainted" ] || reports "$late" >/dev/null || bad "the kernel became tainted: $tainted, now ${after:-no answer}"
		tainted=$after
	fi
	pause
	if reports "$late"; then bad 'the kernel printed a report'; fi
}

verdict() {
	if [ -z "$report" ]; then
		left=15
		while alive && [ "$left" -gt 0 ]; do
			left=$((left - 1))
			pause
		done
		if alive; then bad 'the guest stopped answering'; else bad 'the guest died'; fi
		return
	fi
	status=$(field exit)
	if [ -n "$(field exec_error)" ] && [ "$(field exec_error)" != null ]; then
		hosts="$hosts $id"
		say "could not be started: $(field exec_error | clean)"
	elif [ "$(field timeout)" = true ]; then
		bad "not done within $limit s"
	elif [ "$status" = null ]; then
		bad "killed by signal $(field signal)"
	elif [ "$status" = 4 ]; then
		say 'skipped (exit status 4)'
	elif [ "$status" = 2 ] && [ "$own" = 1 ]; then
		say 'an expected failure (exit status 2)'
	elif [ "$foreign" = 1 ] && { [ "$status" = 126 ] || [ "$status" = 127 ]; }; then
		hosts="$hosts $id"
		say "it, or a program that it needs, could not be run (exit status $status)"
	elif [ "$status" != 0 ]; then
		bad "exit status $status"
	elif [ "$ktap" = 1 ] && clean <out | grep -E '^[ ]*not ok ' | grep -q -v -i -E '# (SKIP|TODO|XFAIL)'; then
		bad 'it says "not ok"'
	else
		say 'exit status 0'
	fi
}

shut_down() { # a last look
	alive || return 0
	before=$(($(wc -c <console)))
	in_guest 60 'sync; (sleep 0.1; reboot -f) >/dev/null 2>&1 &' </dev/null 2>/dev/null
	until_=$(($(now) + 20 * factor))
	while alive && [ "$(now)" -lt "$until_" ]; do pause; done
	if alive; then bad 'the guest did not go down when told to'; fi
	if reports "$before"; then bad 'the kernel printed a report while it went down'; fi
}

# ---- all of them

list() {
	for id in $programs; do
		program "$id"
		printf '%s\t%s\n' "$id" "$command"
	done
}

open_shell() {
	program "${1:-${programs%% *}}"
	boot || exit 1
	say "programs: $programs"
	say "their command lines: $self --list"
	tty=-t
	in_guest "$life" "cd $folder; PATH=$folder:\$PATH exec /bin/sh -l"
	code=$?
	alive || { say 'the guest is gone:'; tail -n 40 console | clean; }
	exit "$code"
}

carry_out() {
	failed=
	up=
	for id in "$@"; do
		trouble=
		if [ -z "$up" ]; then
			boot && up=1
		fi
		if [ -n "$up" ]; then
			run_program "$id"
			if [ "$shared" = 0 ] || ! alive || [ -z "$report" ]; then
				shut_down
				stop
				up=
			fi
		fi
		[ -z "$trouble" ] || failed="$failed $id"
	done
	trouble=
	if [ -n "$up" ]; then
		shut_down
		stop
	fi
	[ -z "$trouble" ] || failed="$failed shutdown"
	if [ -n "$failed" ]; then
		say "REPRODUCED: of $# program(s) these failed:$failed"
		exit 1
	fi
	if [ -n "$hosts" ]; then
		say "could not be run:$hosts"
		exit 3
	fi
	say "not reproduced: $# program(s), nothing failed"
	exit 0
}

set -f
self=$0
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || die "cannot find the folder of $0"
run=${here%/cells/*}
LC_ALL=C
export LC_ALL
umask 077
what=run
wanted=
while [ $# -gt 0 ]; do
	case $1 in
	-h | --help) usage; exit 0 ;;
	--list) what=list ;;
	--shell) what=shell ;;
	--orchestrate) shift; by_orchestrate "$@" ;;
	-*) wrong "there is no option $1; see --help" ;;
	*) program "$1" || wrong "this cell has no program $1; it has: $programs"
		wanted="$wanted $1" ;;
	esac
	shift
done
case $what in list) list; exit 0 ;; esac

for tool in "$qemu_program:$qemu_package" ssh:openssh-client ssh-keygen:openssh-client timeout:coreutils \
	base64:coreutils mkfifo:coreutils; do
	command -v "${tool%%:*}" >/dev/null || die "${tool%%:*} is not installed (Debian: apt-get install ${tool##*:})"
done
for file in "$kernel" $initrds; do
	[ -r "$run/$file" ] || die "$run/$file is missing: copy the run directory with its artifacts/"
done
# what the cell had, and where that is not known, what this host can
asked=${ACCEL:-auto}
accel=$asked
case $asked in
auto)
	accel=$(sed -n 's/^ *"accelerator": "\([a-z]*\)".*/\1/p' "$here/qemu.json" 2>/dev/null)
	: "${accel:=$cell_accel}"
	if [ "$accel" != tcg ]; then
		accel=tcg
		case " $machines " in
		*" $(uname -m) "*) [ -r /dev/kvm ] && [ -w /dev/kvm ] && accel=kvm ;;
		esac
	fi ;;
kvm | tcg) ;;
*) wrong "ACCEL=$asked: auto, kvm or tcg" ;;
esac

qemu=
tty=
foreground=
timeout --foreground 1 true 2>/dev/null && foreground=--foreground
boots=0
trouble=
hosts=
report=
tmp=$(mktemp -d) || die 'no folder for temporary files'
trap 'stop 2>/dev/null; cd /; rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
make_keys
for file in $initrds; do cat "$run/$file"; done >"$tmp/initrd" || die "no room in $tmp"
cat "$tmp/keys" >>"$tmp/initrd" || die "no room in $tmp"
case $what in
shell) open_shell $wanted ;;
*) carry_out ${wanted:-$programs} ;;
esac
