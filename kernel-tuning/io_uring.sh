#!/usr/bin/env bash
# Subject io_uring: the broker's sockets are on io_uring, so without the permission nothing works at all.

# The group number of the broker's user, if there is such a user.
broker_group() {
    awk -F: -v user="$BROKER_USER" '$1 == user { print $4; found = 1 } END { exit !found }' "$ROOT/etc/passwd" 2>/dev/null
}

knobs_io_uring() {
    local release major minor disabled group
    release=$(value_of "$ROOT/proc/sys/kernel/osrelease") || release=
    if [[ $release =~ ^([0-9]+)\.([0-9]+) ]]; then
        major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]}
        if ((major > 6 || (major == 6 && minor >= 1))); then
            report ok "kernel version" "$release" "" "6.1 brought the deferred task work that the rings need."
        else
            by_hand "kernel version" "$release" "6.1 or newer" "The rings need single issuer and deferred task work. Install a newer kernel."
        fi
    fi

    # The file came with Linux 6.6; before, io_uring is open to all.
    disabled=$(sysctl_value kernel.io_uring_disabled) || disabled=0
    group=$(broker_group) || group=
    case $disabled in
        0)
            sysctl_setting kernel.io_uring_disabled is 0 "0: every user may use io_uring."
            ;;
        *)
            # Someone closed it on purpose. Open it as little as will do: for the broker's group, if it has one.
            if [[ -n $group ]]; then
                sysctl_setting kernel.io_uring_group is "$group" "The group that may use io_uring while kernel.io_uring_disabled is 1: that of the user $BROKER_USER."
                sysctl_setting kernel.io_uring_disabled is 1 "1: io_uring for one group only (and for CAP_SYS_ADMIN); 2: for nobody, and the broker cannot run."
            else
                sysctl_setting kernel.io_uring_disabled is 0 "The broker needs io_uring. (There is no user $BROKER_USER here: with one, io_uring would be opened to its group alone.)"
            fi
            ;;
    esac
    note "seccomp" "A container's seccomp profile can forbid io_uring_setup, io_uring_enter and io_uring_register whatever stands above; nothing in /proc tells. The broker says so when it starts."
}
