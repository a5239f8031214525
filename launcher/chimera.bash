# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
# bash completion of chimera

_chimera_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }

_chimera_files() {
    compopt -o filenames 2> /dev/null
    mapfile -t COMPREPLY < <(compgen -f -X '!*.conf' -- "$cur"; compgen -d -- "$cur")
}

_chimera_machines() { chimera list 2> /dev/null | awk 'NR > 1 { print $1 }'; }

_chimera_nodes() {
    chimera status 2> /dev/null | awk '
        /^[^ ]/ { machine = $1; sub(/:$/, "", machine) }
        /^ +[0-9]/ { print $2; print machine "/" $2 }'
}

# The options of a command, from its help.
_chimera_options() {
    chimera help "$1" 2> /dev/null | grep -oE -- '(^|[ [])--?[a-zA-Z][a-z-]*' | tr -d ' ['
}

_chimera() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command=${COMP_WORDS[1]} i operands=0

    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        _chimera_words "run up down status list exec console migrate validate stats top report bench help version"
        return
    fi
    case $prev in
    --share|--logs)
        compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        return ;;
    --record|--output|-o)
        compopt -o filenames 2> /dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return ;;
    --name|--node|--home|--env|-e|--cwd|--user|--delay|-d|--count) return ;;
    esac
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --share|--logs|--record|--name|--node|--home|--env|-e|--cwd|--user) i=$((i + 1)) ;;
        -*) ;;
        *) operands=$((operands + 1)) ;;
        esac
    done
    if [[ $cur == -* ]]; then
        case $command in
        run|exec) [ "$operands" -le 1 ] || return ;;
        esac
        _chimera_words "$(_chimera_options "$command")"
        return
    fi
    case $command in
    run|up) [ "$operands" -gt 0 ] || _chimera_files ;;
    validate) _chimera_files ;;
    down|status|stats|top|report) _chimera_words "$(_chimera_machines)" ;;
    exec|console) [ "$operands" -gt 0 ] || _chimera_words "$(_chimera_nodes)" ;;
    migrate) [ "$operands" -ne 1 ] || _chimera_words "$(_chimera_nodes)" ;;
    bench) [ "$operands" -gt 0 ] || _chimera_words "$(chimera bench 2> /dev/null)" ;;
    help) _chimera_words "run up down status list exec console migrate validate stats top report bench help version" ;;
    esac
}

complete -F _chimera chimera
