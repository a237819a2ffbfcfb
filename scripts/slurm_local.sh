#!/usr/bin/env bash
# A real one-node Slurm cluster on loopback, for trying `hydra/launcher=submitit_slurm` without a cluster.
#
#   eval "$(scripts/slurm_local.sh up)"   # install if missing, start, wait for the node, export SLURM_CONF
#   scripts/slurm_local.sh status         # daemons, node and queue; exit 0 only if the cluster is usable
#   scripts/slurm_local.sh down           # cancel what runs, stop the daemons, keep logs and config
#
# Only the `export` lines go to standard output; everything a person reads goes to standard error.
# Everything lives in one directory, and nothing outside it is written but the Debian packages.
#
# Settings (environment):
#   SLURM_LOCAL_DIR        directory of the cluster                         /tmp/biencoder-slurm
#   SLURM_LOCAL_CPUS       CPUs the node claims                             nproc
#   SLURM_LOCAL_MEM_MB     memory the node claims                           95 % of MemTotal
#   SLURM_LOCAL_GPUS       GPUs the node claims                             count of /dev/nvidia[0-9]*
#   SLURM_LOCAL_PROCTRACK  how slurmd finds a job's processes: linuxproc,
#                          pgid, or cgroup as most clusters have it (needs
#                          a writable version 1 freezer hierarchy)          linuxproc
#   SLURM_LOCAL_KILL_WAIT  seconds between SIGTERM and SIGKILL              10
#   SLURM_LOCAL_PORT       first of the ports used: slurmctld, slurmd and,
#                          with accounting, slurmdbd and MariaDB            16817
#   SLURM_LOCAL_ACCOUNTING set to 1 for a real slurmdbd on a real MariaDB,
#                          so that sacct works. submitit learns from sacct
#                          alone that a job died without a result (scancel,
#                          SIGKILL, node failure); without it whoever waits
#                          for such a job waits for ever                    unset
#   SLURM_LOCAL_NO_INSTALL set to 1 to fail instead of installing packages  unset
set -euo pipefail

DIR="${SLURM_LOCAL_DIR:-/tmp/biencoder-slurm}"
CPUS="${SLURM_LOCAL_CPUS:-$(nproc)}"
MEM_MB="${SLURM_LOCAL_MEM_MB:-$(awk '/^MemTotal:/ {print int($2 / 1024 * 0.95)}' /proc/meminfo)}"
KILL_WAIT="${SLURM_LOCAL_KILL_WAIT:-10}"
PORT="${SLURM_LOCAL_PORT:-16817}"
PROCTRACK="${SLURM_LOCAL_PROCTRACK:-linuxproc}"
ACCOUNTING="${SLURM_LOCAL_ACCOUNTING:-}"
START_TIMEOUT_S=60
FREEZER=/sys/fs/cgroup/freezer
PARTITION=debug
PACKAGES=(slurmctld slurmd slurm-client munge)
TOOLS=(munged mungekey slurmctld slurmd sbatch srun scontrol sinfo)
if [ -n "$ACCOUNTING" ]; then
    # The server alone: Debian's mariadb-server would bring the client, Perl and a service of its own.
    PACKAGES+=(slurmdbd mariadb-server-core)
    TOOLS+=(slurmdbd mariadbd)
fi

say() { printf 'slurm_local: %s\n' "$*" >&2; }
die() {
    printf 'slurm_local: ERROR: %s\n' "$*" >&2
    exit 1
}

usage() {
    sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# The daemons are in /usr/sbin, which a plain `su` or a venv's PATH may lack. Appended: the caller's order stays.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

check_host() {
    [ "$(uname -s)" = Linux ] || die "Slurm's daemons run on Linux only, this is $(uname -s)."
    # slurmd has to become the submitting user and munged must own its socket, so all three run as root.
    [ "$(id -u)" = 0 ] || die "must run as root (slurmd switches users and reads every process in /proc)."
    case "$DIR" in
    /*) ;;
    *) die "SLURM_LOCAL_DIR must be an absolute path, got '$DIR'." ;;
    esac
    case "$DIR" in
    *[[:space:]\#,=]*) die "SLURM_LOCAL_DIR may hold no space, '#', ',' or '=' (slurm.conf cannot quote them): '$DIR'." ;;
    esac
    case "$PROCTRACK" in
    linuxproc | pgid) ;;
    cgroup) [ -w "$FREEZER/tasks" ] || die "SLURM_LOCAL_PROCTRACK=cgroup needs a writable version 1 hierarchy in $FREEZER." ;;
    *) die "SLURM_LOCAL_PROCTRACK must be linuxproc, pgid or cgroup, got '$PROCTRACK'." ;;
    esac
    # munged and slurmd open UNIX sockets below the directory; the kernel limits such a path to 107 bytes.
    [ "${#DIR}" -le 70 ] || die "SLURM_LOCAL_DIR is ${#DIR} bytes long, at most 70 fit a UNIX socket path: '$DIR'."
    # up sets the directory's mode and files: never in one that holds something else (say, /tmp itself).
    if [ -d "$DIR" ] && [ ! -e "$DIR/lock" ] && [ -n "$(ls -A "$DIR")" ]; then
        die "$DIR holds other files; SLURM_LOCAL_DIR must be a directory of the cluster's own."
    fi
    local name
    for name in CPUS MEM_MB KILL_WAIT PORT; do
        [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || die "SLURM_LOCAL_$name must be a positive integer, got '${!name}'."
    done
}

install_packages() {
    local missing=() tool
    for tool in "${TOOLS[@]}"; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    say "not installed: ${missing[*]}"
    [ -z "${SLURM_LOCAL_NO_INSTALL:-}" ] || die "SLURM_LOCAL_NO_INSTALL is set; install ${PACKAGES[*]} first."
    command -v apt-get >/dev/null || die "no apt-get here; install Slurm and MUNGE another way (Debian: ${PACKAGES[*]})."
    say "installing ${PACKAGES[*]} with apt-get (log: $DIR/log/apt.log)"
    # --no-install-recommends: the recommended mail and documentation packages are of no use here.
    # Lock::Timeout: another apt-get on the machine is waited for, not tripped over. Services that the packages start
    # on a machine with an init are harmless: other ports, other sockets, and slurmd stops without /etc/slurm.
    {
        apt-get -o DPkg::Lock::Timeout=300 update &&
            DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y \
                --no-install-recommends "${PACKAGES[@]}"
    } >"$DIR/log/apt.log" 2>&1 </dev/null 9>&- || {
        tail -n 15 "$DIR/log/apt.log" >&2
        die "apt-get could not install ${PACKAGES[*]}: no network, no package index, or not Debian/Ubuntu."
    }
}

gpu_count() {
    local devices=(/dev/nvidia[0-9]*)
    if [ -n "${SLURM_LOCAL_GPUS:-}" ]; then
        [[ "$SLURM_LOCAL_GPUS" =~ ^[0-9]+$ ]] || die "SLURM_LOCAL_GPUS must be an integer, got '$SLURM_LOCAL_GPUS'."
        echo "$SLURM_LOCAL_GPUS"
    elif [ -e "${devices[0]}" ]; then
        echo "${#devices[@]}"
    else
        echo 0
    fi
}

# The configuration files, to the directory $1.
write_config() {
    local to="$1" host gpus i device gres_lines="" node_gres="" gres_types="" accounting cgroup_plugin listen
    host="$(hostname -s)"
    if [ "$(getent ahostsv4 "$host" 2>/dev/null | awk 'NR == 1 {print $1}')" = 127.0.0.1 ]; then
        listen="# The daemons and srun listen on the host name's own address, 127.0.0.1 here, not on every interface.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"
    else
        # These two options go by the host name. Where that is unknown, a network address or Debian's 127.0.1.1, some
        # would listen on one address and be called on another, and srun would hang.
        listen="# The host name is not 127.0.0.1, so the ports are open on every interface; MUNGE's key guards them."
    fi
    gpus="$(gpu_count)"
    if [ "$gpus" -gt 0 ]; then
        # slurmd counts the device files of gres.conf and finds the node invalid if they are too few, so a GPU that is
        # not there gets an empty stand-in file. That lets a `gpus_per_node: 1` job through on a machine without a GPU
        # (SLURM_GPUS_ON_NODE is set, CUDA_VISIBLE_DEVICES is not).
        gres_types="GresTypes=gpu"
        node_gres=" Gres=gpu:$gpus"
        for ((i = 0; i < gpus; i++)); do
            device="/dev/nvidia$i"
            if [ ! -e "$device" ]; then
                device="$DIR/gpu/fake$i"
                mkdir -p "$DIR/gpu"
                : >"$device"
            fi
            gres_lines+="Name=gpu File=$device"$'\n'
        done
    fi

    if [ -n "$ACCOUNTING" ]; then
        # No AccountingStorageEnforce: users and accounts need not be declared, jobs are recorded only.
        accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT + 2))
AccountingStoragePass=$DIR/munge/socket"
        # slurmdbd refuses the file unless it is the owner's alone.
        (
            umask 077
            cat >"$to/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((PORT + 2))
SlurmUser=root
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$((PORT + 3))
StorageUser=slurm
StoragePass=$(cat "$DIR/db/password")
StorageLoc=slurm_acct_db
CONF
        )
    else
        accounting="# No database: sacct has nothing to say, see SLURM_LOCAL_ACCOUNTING.
AccountingStorageType=accounting_storage/none"
    fi

    # AutoDetect=off: NVML is not in Debian's build, and asking for it is a fatal error.
    printf 'AutoDetect=off\n%s' "$gres_lines" >"$to/gres.conf"

    # slurmd loads a cgroup plugin even if nothing uses it. "autodetect", the default, stops slurmd where no cgroup is
    # mounted and where only version 2 is but no systemd runs (most containers). "disabled" exists from 24.05 on and is
    # a fatal error before; there the version 1 plugin serves, which touches nothing until it is used.
    cgroup_plugin=cgroup/v1
    if [ "$PROCTRACK" != cgroup ] && [ "$(printf '%s\n' 24.05 "$(slurmd -V | awk '{print $2}')" | sort -V | head -n 1)" = 24.05 ]; then
        cgroup_plugin=disabled
    fi
    echo "CgroupPlugin=$cgroup_plugin" >"$to/cgroup.conf"

    cat >"$to/slurm.conf" <<CONF
# Written by scripts/slurm_local.sh; "down" and "up" again after changing a setting.
ClusterName=local
# The address in parentheses and NodeAddr keep all traffic on loopback whatever the host name resolves to.
SlurmctldHost=$host(127.0.0.1)
# Own ports, so that a Slurm already set up on this machine is not disturbed.
SlurmctldPort=$PORT
SlurmdPort=$((PORT + 1))
$listen

# Own munged, own key: /etc/munge and its daemon are left alone. cred_expire is also how long a requeued job is held
# back (reason BeginTime): 120 s unless told, 5 s is the least.
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root

StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
# The default, /usr/bin/mail, is not installed and would be complained about at every start.
MailProg=/bin/true

# linuxproc walks parents in /proc: a process whose parent has ended escapes from the job, and with it from SIGKILL
# (a forked worker that outlives its trainer, a program under a batch shell that SIGTERM ended first). "down" kills
# such leftovers. pgid loses what calls setsid; only cgroup loses nothing.
ProctrackType=proctrack/$PROCTRACK
# No CPU binding and no memory limit: requests count for scheduling only.
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
$accounting
# Finished jobs stay visible to "scontrol show job" for an hour, for where there is no sacct to ask later.
MinJobAge=3600

# CPUs and memory are both given out. DefMemPerCPU: without it a job that asks for no memory gets all of the node's,
# and jobs run one at a time.
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=$((MEM_MB / CPUS))
SchedulerType=sched/backfill
# Look at the queue every few seconds (defaults: 60 and 30); a test cluster has nothing better to do.
SchedulerParameters=sched_interval=5,bf_interval=5
# The node claims what is written below even where slurmd finds less (a container's limits), rather than drain.
SlurmdParameters=config_overrides
$gres_types

# scancel and the time limit: SIGTERM, this many seconds, SIGKILL.
KillWait=$KILL_WAIT
OverTimeLimit=0
JobRequeue=1
# The submitting shell's ulimits say nothing about a cluster's nodes.
PropagateResourceLimits=NONE
# A node that was down (the daemons were stopped, the machine slept) is used again as soon as it registers.
ReturnToService=2
SlurmdTimeout=300

NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEM_MB$node_gres State=UNKNOWN
PartitionName=$PARTITION Nodes=$host Default=YES DefaultTime=60 MaxTime=INFINITE State=UP
CONF
}

# The process id in $DIR/run/$1.pid, if that process runs and is ours: it is that program, and its command line or
# its SLURM_CONF (slurmdbd takes no option) names this directory. A pid file left over from a crash may hold a number
# that is somebody else's now.
daemon_pid() {
    local pid cmdline
    [ -s "$DIR/run/$1.pid" ] || return 1
    pid="$(tr -cd 0-9 2>/dev/null <"$DIR/run/$1.pid")" || return 1
    [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
    cmdline="$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)" || return 1
    [[ "$cmdline" == *"$1"* ]] || return 1
    [[ "$cmdline" == *"$DIR/"* ]] || tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null |
        grep -F -x "SLURM_CONF=$DIR/slurm.conf" >/dev/null || return 1
    echo "$pid"
}

# In the order of starting; all are looked at when stopping, whatever the settings are now.
DAEMONS=(munged mariadbd slurmdbd slurmctld slurmd)
wanted() { [ -n "$ACCOUNTING" ] || { [ "$1" != mariadbd ] && [ "$1" != slurmdbd ]; }; }
any_daemon() {
    local name
    for name in "${DAEMONS[@]}"; do daemon_pid "$name" >/dev/null && return 0; done
    return 1
}

# sinfo's state of our node, without the flags it appends ("idle*": not responding); empty if slurmctld is silent.
node_state() { timeout 10 sinfo --noheader --Node --format=%T --partition="$PARTITION" 2>/dev/null | head -n 1 || true; }

logs_and_die() {
    local name
    for name in "${DAEMONS[@]}"; do
        [ -s "$DIR/log/$name.log" ] || continue
        say "--- last lines of $DIR/log/$name.log"
        tail -n 8 "$DIR/log/$name.log" >&2
    done
    die "$* ('$0 down' stops what did start)"
}

# A table space of our own. mariadb-install-db would need a helper from the client package, so the server is fed the
# same SQL directly; its root accounts without a password (the "data" file) are left out.
create_database() {
    [ ! -e "$DIR/db/created" ] || return 0
    say "creating the accounting database"
    rm -rf "$DIR/db/data"
    mkdir -p "$DIR/db/data/mysql"
    { echo "use mysql;" && cat /usr/share/mysql/mysql_system_tables.sql /usr/share/mysql/mysql_performance_tables.sql; } |
        mariadbd --no-defaults --bootstrap --user=root --datadir="$DIR/db/data" --innodb-log-file-size=16M \
            >"$DIR/log/mariadb-bootstrap.log" 2>&1 || {
        tail -n 12 "$DIR/log/mariadb-bootstrap.log" >&2
        die "MariaDB could not create its tables."
    }
    touch "$DIR/db/created"
}

start_munged() {
    # A key of our own. munged refuses one that others can read.
    [ -s "$DIR/munge/key" ] || (umask 077 && mungekey --create --keyfile="$DIR/munge/key")
    munged --key-file="$DIR/munge/key" --socket="$DIR/munge/socket" --pid-file="$DIR/run/munged.pid" \
        --log-file="$DIR/log/munged.log" --seed-file="$DIR/munge/seed"
}
start_mariadbd() {
    local password
    create_database
    password="$(cat "$DIR/db/password")"
    (
        umask 077
        printf '%s\n' "CREATE DATABASE IF NOT EXISTS slurm_acct_db;" \
            "CREATE OR REPLACE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '$password';" \
            "GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';" >"$DIR/db/init.sql"
    )
    # It stays in the foreground, hence setsid and &. --no-defaults: /etc/mysql is another server's. The last option
    # is the value slurmdbd asks for.
    setsid mariadbd --no-defaults --user=root --datadir="$DIR/db/data" --socket="$DIR/db/socket" \
        --pid-file="$DIR/run/mariadbd.pid" --log-error="$DIR/log/mariadbd.log" --init-file="$DIR/db/init.sql" \
        --bind-address=127.0.0.1 --port="$((PORT + 3))" --skip-name-resolve --innodb-log-file-size=16M \
        --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 &
    wait_until mariadb_answers
}
mariadb_answers() { port_answers "$((PORT + 3))"; }
start_slurmdbd() {
    slurmdbd && wait_until slurmdbd_answers || return 1
    # slurmctld's records are dropped for a cluster that the database does not know.
    [ -n "$(sacctmgr --noheader --parsable2 list cluster cluster=local 2>/dev/null)" ] ||
        sacctmgr --immediate --quiet add cluster local
}
slurmdbd_answers() { timeout 5 sacctmgr --noheader list cluster >/dev/null 2>&1; }
start_slurmctld() { slurmctld -f "$DIR/slurm.conf"; }
start_slurmd() { slurmd -f "$DIR/slurm.conf"; }

port_answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
wait_until() {
    local deadline=$((SECONDS + START_TIMEOUT_S))
    until "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.3
    done
}

start_daemons() {
    local name
    for name in "${DAEMONS[@]}"; do
        wanted "$name" || continue
        daemon_pid "$name" >/dev/null && continue
        say "starting $name"
        # Descriptor 9 is the lock: a daemon that inherited it would hold it for life. No descriptor of the caller's
        # may be inherited either, or a caller that reads our output through a pipe never sees its end.
        "start_$name" 9>&- </dev/null >"$DIR/log/$name.start" 2>&1 || {
            cat "$DIR/log/$name.start" >&2
            case "$name" in
            munged) logs_and_die "munged did not start; every directory above $DIR must be owned by root and not group- or world-writable (a sticky /tmp is fine)." ;;
            *) logs_and_die "$name did not start." ;;
            esac
        }
    done
}

wait_for_node() {
    local deadline=$((SECONDS + START_TIMEOUT_S)) state="" host name
    host="$(hostname -s)"
    while [ "$SECONDS" -lt "$deadline" ]; do
        state="$(node_state)"
        case "$state" in
        idle | mixed | allocated | completing)
            say "node $host is $state: $CPUS CPU(s), $MEM_MB MB, $(gpu_count) GPU(s), partition $PARTITION"
            return 0
            ;;
        # Left from an earlier life (a job that could not be killed drains the node). Nobody else will clear it.
        drained* | draining* | down*) scontrol update NodeName="$host" State=RESUME >/dev/null 2>&1 || true ;;
        inval*) break ;;
        esac
        for name in slurmctld slurmd; do
            daemon_pid "$name" >/dev/null || logs_and_die "$name ended right after its start."
        done
        sleep 0.5
    done
    logs_and_die "the node is '${state:-silent}', not idle: $(timeout 10 sinfo --noheader --format=%E 2>/dev/null || true)"
}

lock() {
    mkdir -p "$DIR"
    exec 9>"$DIR/lock"
    flock --timeout 400 9 || die "another slurm_local.sh has held $DIR/lock for 400 s."
}

up() {
    check_host
    lock
    # 0755, against a strict umask: clients of other users read slurm.conf and reach munged's socket.
    install -d -m 0755 "$DIR" "$DIR/munge" "$DIR/run" "$DIR/log" "$DIR/spool"
    install -d -m 0700 "$DIR/state" "$DIR/db"
    install_packages
    export SLURM_CONF="$DIR/slurm.conf"
    if [ -n "$ACCOUNTING" ] && [ ! -s "$DIR/db/password" ]; then
        (umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$DIR/db/password")
    fi

    local new file
    new="$(mktemp -d "$DIR/new.XXXXXX")"
    write_config "$new"
    if any_daemon; then
        # A running slurmctld and slurmd must agree on one text, so nothing is replaced under them.
        for file in "$new"/*.conf; do
            cmp -s "$file" "$DIR/${file##*/}" || {
                rm -rf "$new"
                die "the cluster in $DIR is up with other settings; run '$0 down' first."
            }
        done
    else
        # Looked at beforehand: slurmctld and slurmd go to the background first and fail to bind there, unseen.
        local port
        for ((port = PORT; port < PORT + 4; port++)); do
            if port_answers "$port"; then
                rm -rf "$new"
                die "port $port is in use (another cluster?); SLURM_LOCAL_PORT moves all four ports."
            fi
        done
        mv "$new"/*.conf "$DIR/"
    fi
    rm -rf "$new"

    start_daemons
    wait_for_node
    say "ready; the line to export (or: eval \"\$($0 up)\"):"
    echo "export SLURM_CONF=$DIR/slurm.conf"
}

# SIGTERM to a daemon and wait for its end; SIGKILL after 15 s.
stop_daemon() {
    local name="$1" pid i
    pid="$(daemon_pid "$name")" || return 0
    say "stopping $name ($pid)"
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < 75; i++)); do
        daemon_pid "$name" >/dev/null || return 0
        sleep 0.2
    done
    say "$name ignores SIGTERM, sending SIGKILL"
    kill -KILL "$pid" 2>/dev/null || true
}

queued() { timeout 10 squeue --noheader --format=%i 2>/dev/null | tr '\n' ' ' || true; }
wait_for_empty_queue() {
    local deadline=$((SECONDS + $1))
    while [ -n "$(queued)" ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.5; done
}

# SIGKILL to the processes of this cluster's jobs that proctrack lost: the environment says whose they are.
kill_leftovers() {
    local environ pid variables
    for environ in /proc/[0-9]*/environ; do
        pid="${environ//[!0-9]/}"
        variables="$(tr '\0' '\n' 2>/dev/null <"$environ")" 2>/dev/null || continue
        case "$variables" in
        *"SLURM_CONF=$DIR/slurm.conf"*) ;;
        *) continue ;;
        esac
        # Only a job's own processes have a job id; who submitted them, and waits for them, has none.
        grep -E '^SLURM_JOB_ID=[0-9]+$' <<<"$variables" >/dev/null || continue
        case "$pid" in "$$" | "$PPID") continue ;; esac
        say "killing leftover process $pid of a job: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
        kill -KILL "$pid" 2>/dev/null || true
    done
}

down() {
    check_host
    [ -d "$DIR" ] || {
        say "nothing in $DIR, already down"
        return 0
    }
    lock
    if ! any_daemon; then
        say "already down ($DIR)"
        return 0
    fi
    export SLURM_CONF="$DIR/slurm.conf"
    # Jobs first: stopping slurmd leaves their processes running with nobody to end them.
    if daemon_pid slurmctld >/dev/null && daemon_pid slurmd >/dev/null && [ -n "$(queued)" ]; then
        say "cancelling job(s): $(queued)"
        # shellcheck disable=SC2046
        scancel $(queued) >/dev/null 2>&1 || true
        wait_for_empty_queue "$((KILL_WAIT + 5))"
        # A leftover that holds a job's output open keeps the job in state COMPLETING.
        kill_leftovers
        wait_for_empty_queue 20
        [ -z "$(queued)" ] || say "WARNING: job(s) $(queued) did not end"
    fi
    kill_leftovers
    local i
    for ((i = ${#DAEMONS[@]} - 1; i >= 0; i--)); do stop_daemon "${DAEMONS[i]}"; done
    # proctrack/cgroup leaves its empty groups behind.
    local group
    group="$FREEZER/slurm_$(hostname -s)"
    [ "$PROCTRACK" != cgroup ] || [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    say "down; logs stay in $DIR/log (rm -rf $DIR removes every trace)"
}

status() {
    local name pid rc=0 state
    for name in "${DAEMONS[@]}"; do
        if pid="$(daemon_pid "$name")"; then
            say "$name: running, process $pid"
        elif wanted "$name"; then
            say "$name: not running"
            rc=1
        fi
    done
    if [ "$rc" = 0 ]; then
        export SLURM_CONF="$DIR/slurm.conf"
        state="$(node_state)"
        say "node: ${state:-slurmctld does not answer}"
        case "$state" in
        idle | mixed | allocated | completing) squeue >&2 ;;
        *) rc=1 ;;
        esac
    fi
    return "$rc"
}

[ "$#" = 1 ] || usage
case "$1" in
up | down | status) "$1" ;;
*) usage ;;
esac
