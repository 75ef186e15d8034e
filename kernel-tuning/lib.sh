#!/usr/bin/env bash
# What every subject file shares: knobs, their rules, the record that `undo` reads, and the report.
#
# A subject file is a list of knobs. Each knob names a setting, a rule, the value it wants and the reason; from that
# both halves follow: *check* compares, *apply* records the old value and then writes the new one.
#
# What must hold:
# - Only `apply` without --dry-run and `undo` without --dry-run write anything.
# - The old value is in the record before the new one is in the kernel: whatever happens in between, undo can mend it.
# - The first recorded value stays: applying twice and undoing once is where the machine was before.
# - Undo never overwrites what somebody else has changed since.
# - With --root DIR every path lies below DIR, programs included: nothing of the real machine is read or changed.
#
# Sourced by `tune`, which sets:
#   ACTION       check | apply | undo
#   DRY_RUN      true: say it, do not do it
#   ROOT         prefix of every path; empty on a real machine
#   STATE        directory of the record
#   SUBJECT      the subject at work
#   TSV          true: one line per knob, fields separated by tabs, for programs
#   VERBOSE      true: the reason also where nothing is to do

# Knobs that are not as they should be (and are still not), and those that could not be changed.
UNFIT=0
REFUSED=0

# ---- Report --------------------------------------------------------------------------------------------------

# report STATUS NAME NOW WANTED WHY
#
# ok           as it should be
# change       would be changed by `apply`
# changed      was changed, or put back by `undo`
# refused      could not be read or written: no permission, or a container that does not allow it
# by-hand      not as it should be, and not for a script to mend; the reason says how
# absent       this kernel has no such setting; nothing to do
# note         worth knowing; counts for nothing
report() {
    local status=$1 name=$2 now=$3 wanted=$4 why=$5 line
    case $status in
        change | by-hand) UNFIT=$((UNFIT + 1)) ;;
        refused) REFUSED=$((REFUSED + 1)) ;;
    esac
    if $TSV; then
        printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$SUBJECT" "$name" "$status" "$now" "$wanted" "$why"
        return
    fi
    line=$now
    [[ -z $wanted || $now == "$wanted" ]] || line="$now -> $wanted"
    printf '%-8s %-12s %s%s\n' "$status" "$SUBJECT" "$name" "${line:+: $line}"
    case $status in
        ok | absent) $VERBOSE || return 0 ;;
    esac
    [[ -z $why ]] || printf '%s\n' "$why" | fold -s -w 90 | sed 's/^/                      /; s/ *$//'
}

# note NAME TEXT
note() { [[ $ACTION == undo ]] || report note "$1" "" "" "$2"; }

# by_hand NAME NOW WANTED WHY
by_hand() { report by-hand "$@"; }

# ---- Reading and writing -------------------------------------------------------------------------------------

# A file's value, its fields separated by single blanks. Of a choice such as "always [madvise] never": the chosen one.
value_of() { # value_of FILE
    local text fields
    text=$(cat -- "$1" 2>/dev/null) || return 1
    if [[ $text =~ \[([^]]+)\] ]]; then
        text=${BASH_REMATCH[1]}
    fi
    read -r -d '' -a fields <<<"$text" || true
    printf '%s\n' "${fields[*]}"
}

write_value() { # write_value FILE VALUE
    { printf '%s\n' "$2" >"$1"; } 2>/dev/null
}

is_numeric() { [[ $1 =~ ^[0-9]+(\ [0-9]+)*$ ]]; }

# A CPU mask without commas and leading zeroes, so that two spellings of one set compare equal.
plain_mask() {
    local mask=${1//,/}
    mask=${mask,,}
    while [[ $mask == 0?* ]]; do mask=${mask#0}; done
    printf '%s\n' "$mask"
}

# What a setting should become: its own value when that satisfies the rule.
#
#   min   no field below the wanted one     max   no field above the wanted one
#   is    exactly this                      mask  this set of CPUs
#   not   "BAD GOOD": anything but BAD; if it is BAD, GOOD
target() { # target RULE NOW WANTED
    local rule=$1 now=$2 wanted=$3 have want i fields=()
    case $rule in
        is) printf '%s\n' "$wanted" && return ;;
        mask)
            if [[ $(plain_mask "$now") == "$(plain_mask "$wanted")" ]]; then wanted=$now; fi
            printf '%s\n' "$wanted" && return
            ;;
        not)
            if [[ $now == "${wanted%% *}" ]]; then now=${wanted#* }; fi
            printf '%s\n' "$now" && return
            ;;
    esac
    is_numeric "$now" || { printf '%s\n' "$now" && return; }
    read -r -a have <<<"$now"
    read -r -a want <<<"$wanted"
    for i in "${!have[@]}"; do
        fields[i]=${have[i]}
        [[ -n ${want[i]-} ]] || continue
        case $rule in
            min) ((have[i] >= want[i])) || fields[i]=${want[i]} ;;
            max) ((have[i] <= want[i])) || fields[i]=${want[i]} ;;
        esac
    done
    printf '%s\n' "${fields[*]}"
}

# ---- The record ----------------------------------------------------------------------------------------------

# One line per changed setting: boot, subject, kind, path, old value, new value. Kinds:
#
#   kernel   a file below /proc or /sys; a restart of the machine undoes it, so lines of an earlier boot are dropped
#   file     a file of our own below /etc; its old content in base64, or `absent`
#   table    a packet filter table of our own; a restart undoes it
boot_id() {
    cat -- "$ROOT/proc/sys/kernel/random/boot_id" 2>/dev/null || printf 'unknown\n'
}

record_file() { printf '%s/changes\n' "$STATE"; }

# Writes the record anew with the line for one path replaced (or removed, without values).
record() { # record KIND PATH [OLD NEW]
    local kind=$1 path=$2 record new
    record=$(record_file)
    new=$record.new
    mkdir -p -- "$STATE" 2>/dev/null || return 1
    {
        if [[ -e $record ]]; then
            awk -F '\t' -v kind="$kind" -v path="$path" '!($3 == kind && $4 == path)' "$record" || return 1
        fi
        if (($# == 4)); then
            printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$(boot_id)" "$SUBJECT" "$kind" "$path" "$3" "$4"
        fi
    } 2>/dev/null >"$new" && mv -f -- "$new" "$record" 2>/dev/null
}

# The recorded old value of a path, if it was changed during this boot (or is a file, which outlives it).
recorded() { # recorded KIND PATH
    local record
    record=$(record_file)
    [[ -r $record ]] || return 1
    awk -F '\t' -v kind="$1" -v path="$2" -v boot="$(boot_id)" \
        '$3 == kind && $4 == path && (kind == "file" || $1 == boot) { print $5; found = 1 } END { exit !found }' "$record"
}

# ---- Knobs ---------------------------------------------------------------------------------------------------

# A setting of the kernel: one file with one value.
setting() { # setting NAME FILE RULE WANTED WHY
    local name=$1 file=$ROOT$2 rule=$3 wanted=$4 why=$5 now new old
    if [[ ! -e $file ]]; then
        report absent "$name" "" "" "This kernel, or this container's view of it, has no such setting."
        return
    fi
    if ! now=$(value_of "$file"); then
        report refused "$name" "" "" "It cannot be read by this user."
        return
    fi
    new=$(target "$rule" "$now" "$wanted")
    if [[ $new == "$now" ]]; then
        report ok "$name" "$now" "" "$why"
    elif [[ $ACTION == check ]] || $DRY_RUN; then
        report change "$name" "$now" "$new" "$why"
    else
        old=$(recorded kernel "$2") || old=$now
        if ! record kernel "$2" "$old" "$new"; then
            report refused "$name" "$now" "$new" "Not changed: the old value cannot be recorded in $STATE."
        elif ! write_value "$file" "$new"; then
            # Nothing happened, so nothing is to be undone; what an earlier run recorded stays.
            if [[ $old == "$now" ]]; then record kernel "$2"; else record kernel "$2" "$old" "$now"; fi || true
            report refused "$name" "$now" "$new" "The kernel did not take it: no permission, a read-only /proc or /sys (a container), or a value it does not know."
        else
            # Some settings are rounded. What was read back is what undo compares with.
            now=$(value_of "$file") || now=$new
            record kernel "$2" "$old" "$now" || true
            report changed "$name" "$old" "$now" "$why"
        fi
    fi
}

# A setting by its sysctl name. (Names with a dot inside one part, such as those of VLANs, are not needed here.)
sysctl_setting() { # sysctl_setting NAME RULE WANTED WHY
    setting "$1" "/proc/sys/${1//.//}" "$2" "$3" "$4"
}

sysctl_value() { # sysctl_value NAME
    value_of "$ROOT/proc/sys/${1//.//}"
}

# A file that belongs to these scripts alone, with exactly this content.
own_file() { # own_file NAME PATH CONTENT WHY
    local name=$1 path=$2 file=$ROOT$2 content=$3 why=$4 old=absent now=absent
    if [[ -e $file ]]; then
        now=$(base64 -w 0 -- "$file" 2>/dev/null) || {
            report refused "$name" "" "" "$path cannot be read by this user."
            return
        }
    fi
    if [[ $now == "$(printf '%s\n' "$content" | base64 -w 0)" ]]; then
        report ok "$name" "$path" "" "$why"
    elif [[ $ACTION == check ]] || $DRY_RUN; then
        report change "$name" "$([[ $now == absent ]] && echo "no $path" || echo "another $path")" "${content##*$'\n'}" "$why"
    else
        old=$(recorded file "$path") || old=$now
        if ! record file "$path" "$old" "$(printf '%s\n' "$content" | base64 -w 0)"; then
            report refused "$name" "" "" "Not changed: the old content cannot be recorded in $STATE."
        elif ! { mkdir -p -- "${file%/*}" && write_value "$file" "$content"; } 2>/dev/null; then
            if [[ $old == "$now" ]]; then record file "$path"; else record file "$path" "$old" "$now"; fi || true
            report refused "$name" "" "" "$path cannot be written by this user."
        else
            report changed "$name" "$([[ $now == absent ]] && echo "no $path" || echo "another $path")" "${content##*$'\n'}" "$why"
        fi
    fi
}

# ---- Undo ----------------------------------------------------------------------------------------------------

# Puts back what the record says, last change first; of the named subjects, or of all.
undo_all() { # undo_all [SUBJECT...]
    local record boot of_boot kind path old new
    record=$(record_file)
    boot=$(boot_id)
    if [[ ! -s $record ]]; then
        $TSV || echo "nothing to undo: no record in $STATE"
        return
    fi
    if [[ ! -r $record ]]; then
        SUBJECT=record
        report refused "$record" "" "" "It cannot be read by this user."
        return
    fi
    while IFS=$'\t' read -r of_boot SUBJECT kind path old new; do
        if (($# > 0)) && [[ " $* " != *" $SUBJECT "* ]]; then continue; fi
        if [[ $kind != file && $of_boot != "$boot" ]]; then
            report ok "$path" "undone by the restart of the machine" "" ""
            $DRY_RUN || record "$kind" "$path" || true
            continue
        fi
        "undo_$kind" "$path" "$old" "$new"
    done < <(tac -- "$record")
}

undo_kernel() { # undo_kernel PATH OLD NEW
    local path=$1 file=$ROOT$1 old=$2 new=$3 now
    if [[ ! -e $file ]]; then
        report absent "$path" "" "" "It is gone since (a network interface that left?)."
        $DRY_RUN || record kernel "$path" || true
    elif ! now=$(value_of "$file"); then
        report refused "$path" "" "" "It cannot be read by this user."
    elif [[ $now == "$old" ]]; then
        report ok "$path" "$now" "" ""
        $DRY_RUN || record kernel "$path" || true
    elif [[ $now != "$new" ]]; then
        report note "$path" "$now" "" "Left as it is: somebody has changed it since (we left it at $new, it was $old before)."
        $DRY_RUN || record kernel "$path" || true
    elif $DRY_RUN; then
        report change "$path" "$now" "$old" ""
    elif write_value "$file" "$old"; then
        report changed "$path" "$now" "$old" ""
        record kernel "$path" || true
    else
        report refused "$path" "$now" "$old" "The kernel did not take it."
    fi
}

undo_file() { # undo_file PATH OLD NEW
    local path=$1 file=$ROOT$1 old=$2 new=$3 now=absent
    [[ ! -e $file ]] || now=$(base64 -w 0 -- "$file" 2>/dev/null) || now=unreadable
    if [[ $now != "$new" ]]; then
        report note "$path" "" "" "Left as it is: somebody has changed it since."
        $DRY_RUN || record file "$path" || true
    elif $DRY_RUN; then
        report change "$path" "ours" "$([[ $old == absent ]] && echo removed || echo restored)" ""
    elif if [[ $old == absent ]]; then rm -f -- "$file"; else base64 -d <<<"$old" >"$file"; fi 2>/dev/null; then
        report changed "$path" "ours" "$([[ $old == absent ]] && echo removed || echo restored)" ""
        record file "$path" || true
    else
        report refused "$path" "" "" "It cannot be written by this user."
    fi
}

# ---- Arithmetic that several subjects need -------------------------------------------------------------------

# Integer division, rounded up.
div_ceil() { echo $((($1 + $2 - 1) / $2)); }

# CPU numbers of a list such as 0-3,8,10-11, one a line.
cpu_list() {
    local range
    for range in ${1//,/ }; do
        seq "${range%-*}" "${range#*-}"
    done
}

memory_bytes() {
    awk '/^MemTotal:/ { printf "%.0f\n", $2 * 1024; found = 1 } END { exit !found }' "$ROOT/proc/meminfo" 2>/dev/null
}

# Bytes for people: whole GiB or MiB with one decimal.
human() {
    awk -v bytes="$1" 'BEGIN {
        if (bytes >= 1073741824) printf "%.1f GiB\n", bytes / 1073741824
        else printf "%.1f MiB\n", bytes / 1048576
    }'
}
