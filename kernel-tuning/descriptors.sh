#!/usr/bin/env bash
# Subject descriptors: how many connections one ring, and the whole machine, may hold.
#
# A connection of the broker has no entry in the process's descriptor table. It is a *direct descriptor*, a slot in the
# table of one shard's ring, and the kernel lets each ring have as many slots as RLIMIT_NOFILE says. So a process holds
# up to shards × limit connections: 40 rings held 600,000 under a limit of 20,000. The usual advice for ten million
# connections (nofile and fs.nr_open of ten million) is not needed here.

# Slots of one ring, at most: the kernel's own bound (IORING_MAX_FIXED_FILES).
readonly RING_SLOTS_MAX=1048576
# Locked memory that one shard counts, for a user without CAP_IPC_LOCK. Measured: bench/capacity. (A test holds it and
# that of crates/midge/src/capacity.rs together.)
readonly SHARD_LOCKED_BYTES=580000
# Open files of everything else on the machine.
readonly OTHER_FILES=65536

# Slots that one ring needs, in SLOTS. Clients are spread over shards by hash, so a shard may get more than its part; the
# broker allows a quarter more, and 256 for connections that are on their way to their shard.
SLOTS=0
count_slots() { # count_slots SHARDS
    local part=$(((CONNECTIONS + $1 - 1) / $1))
    SLOTS=$((part + part / 4 + 256))
}

# The fewest shards whose slots fit into a limit, as advice; nothing if the broker's 1,024 shards are too few.
shards_for() { # shards_for LIMIT
    local count
    for ((count = 1; count <= 1024; count++)); do
        count_slots "$count"
        if ((SLOTS <= $1)); then
            echo "midge serve --shards $count"
            return
        fi
    done
}

# The limit that a login of the broker's user gets.
login_limits() { # login_limits SLOTS ARITHMETIC
    own_file "limits of the user $BROKER_USER" /etc/security/limits.d/60-midge.conf \
        "# Written by kernel-tuning/tune. For logins; a systemd unit has LimitNOFILE and LimitMEMLOCK instead.
$BROKER_USER - memlock $(div_ceil $((SHARDS * SHARD_LOCKED_BYTES)) 1024)
$BROKER_USER - nofile $1" \
        "memlock: the rings of $SHARDS shards. nofile, the limit of each ring: $2. Read at login (PAM); systemd services do not read it, configs/midge.service has its own line."
}

knobs_descriptors() {
    local slots files enough limit arithmetic shell
    count_slots "$SHARDS"
    slots=$SLOTS
    arithmetic="$CONNECTIONS connections / $SHARDS shards, a quarter more for uneven spread, and 256 = $slots slots per ring"
    if ((slots > RING_SLOTS_MAX)); then
        enough=$(shards_for $RING_SLOTS_MAX)
        enough=${enough:-"Not even 1024 shards, the most there can be, would do."}
        by_hand "shards" "$SHARDS" "more" "$arithmetic, and the kernel gives one ring at most $RING_SLOTS_MAX. More shards than cores work. $enough"
        slots=$RING_SLOTS_MAX
    else
        report ok "slots per ring" "$slots" "" "$arithmetic."
    fi

    # Direct descriptors are no entries of a process's table, but they are open files of the machine.
    files=$((CONNECTIONS + OTHER_FILES))
    if $LOAD_GENERATOR; then files=$((2 * CONNECTIONS + OTHER_FILES)); fi
    sysctl_setting fs.file-max min "$files" "Open files of the whole machine, direct descriptors included: $CONNECTIONS connections$($LOAD_GENERATOR && echo ', both ends of each,') and $OTHER_FILES for everything else."
    sysctl_setting fs.nr_open min "$slots" "The most that any descriptor limit (RLIMIT_NOFILE) may be: $arithmetic. To be raised before the service starts."

    # Services do not read limits.d, so this is for a user that logs in.
    shell=$(awk -F: -v user="$BROKER_USER" '$1 == user { print $7 }' "$ROOT/etc/passwd" 2>/dev/null) || shell=
    case $shell in
        '' | */nologin | */false)
            report ok "limits of the user $BROKER_USER" "no login" "" "A service has its limit from LimitNOFILE of its unit (configs/midge.service). --user NAME looks at another user."
            ;;
        *) login_limits "$slots" "$arithmetic" ;;
    esac

    # The limit of whoever runs this: what a broker started by hand would get.
    limit=$(awk '/^Max open files/ { print $5 }' "$ROOT/proc/self/limits" 2>/dev/null) || limit=
    if [[ $limit =~ ^[0-9]+$ ]]; then
        if ((limit >= slots)); then
            report ok "limit of this shell" "$limit" "" "A broker started from here holds $SHARDS × $limit connections."
        else
            enough=$(shards_for "$limit")
            note "limit of this shell" "A broker started from here with $SHARDS shards holds at most $SHARDS × $limit = $((SHARDS * limit)) connections (ulimit -Hn).${enough:+ Without a higher limit: $enough}"
        fi
    fi

    # Privileged users are not held to it, but those are not who a broker should run as.
    limit=$(awk '/^Max locked memory/ { print $5 }' "$ROOT/proc/self/limits" 2>/dev/null) || limit=
    if [[ $limit =~ ^[0-9]+$ ]] && ((limit < SHARDS * SHARD_LOCKED_BYTES)); then
        note "locked memory of this shell" "A broker started from here by a user without privileges has at most $((limit / SHARD_LOCKED_BYTES)) shards: $(human "$limit") (ulimit -Hl), of which each takes $(human $SHARD_LOCKED_BYTES). $SHARDS shards need $(human $((SHARDS * SHARD_LOCKED_BYTES))): ulimit -l, or LimitMEMLOCK of the unit."
    fi
}
