/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The small parts: words, sizes, options, memory limits, QEMU's arguments. */
#include "options.h"
#include "preflight.h"
#include "qemu.h"
#include "rundir.h"
#include "paths.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_did_you_mean(void)
{
    static const char *const words[] = { "memory", "cpus", "isa",
                                         "cpu-affinity", NULL };

    g_assert_cmpstr(did_you_mean("memroy", words), ==, "memory");
    g_assert_cmpstr(did_you_mean("cpu", words), ==, "cpus");
    g_assert_cmpstr(did_you_mean("cpuaffinity", words), ==, "cpu-affinity");
    g_assert_cmpstr(did_you_mean("ias", words), ==, "isa");
    g_assert_null(did_you_mean("colour", words));
    g_assert_null(did_you_mean("xy", words));
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        uint64_t bytes;
        const char *shown;
    } sizes[] = {
        { "0", 0, "0" },
        { "1K", 1024, "1K" },
        { "512M", 512ull << 20, "512M" },
        { "512m", 512ull << 20, "512M" },
        { "1536M", 1536ull << 20, "1.5G" },
        { "2T", 2ull << 40, "2T" },
    };
    static const char *const bad[] = { "",     "M",         "1MB",
                                       "-1M",  "1.5G",      " 1M",
                                       "0x10", "16777216T", NULL };
    uint64_t v = 4711;

    for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autofree char *shown = NULL;

        g_assert_true(parse_size(sizes[i].text, &v));
        g_assert_cmpuint(v, ==, sizes[i].bytes);
        shown = format_size(v);
        g_assert_cmpstr(shown, ==, sizes[i].shown);
    }
    v = 4711;
    for (const char *const *b = bad; *b; b++) {
        g_assert_false(parse_size(*b, &v));
    }
    g_assert_cmpuint(v, ==, 4711);
}

static void test_printable(void)
{
    g_autofree char *a =
        printable_line("a\033[1;31mred\033[0m\r\n\tb\033]0;t\a.\033c!", -1);
    g_autofree char *b = printable_line("\xff\xfe ok", -1);
    g_autofree char *c = printable_line("cut \033[1", -1);

    g_assert_cmpstr(a, ==, "ared\tb.!");
    g_assert_true(g_utf8_validate(b, -1, NULL));
    g_assert_cmpstr(c, ==, "cut ");
}

static void test_tail(void)
{
    g_autofree char *path = NULL;
    g_autofree char *tail = NULL, *none = NULL;
    g_autoptr(GString) s = g_string_new(NULL);
    int fd = g_file_open_tmp("tail-XXXXXX", &path, NULL);

    for (int i = 0; i < 20000; i++) {
        g_string_append_printf(s, "line %d\r\n\r\n", i);
    }
    g_string_append(s, "\033[32mno newline");
    write_all(fd, s->str, s->len);
    close(fd);
    tail = tail_of_file(path, 3, "> ");
    g_assert_cmpstr(tail, ==, "> line 19998\n> line 19999\n> no newline\n");
    g_unlink(path);
    none = tail_of_file(path, 3, "> ");
    g_assert_cmpstr(none, ==, "");
}

static void test_nul_strings(void)
{
    g_auto(GStrv) v = split_nul_strings((const uint8_t *)"a\0\0bc\0", 6);

    g_assert_cmpuint(g_strv_length(v), ==, 3);
    g_assert_cmpstr(v[0], ==, "a");
    g_assert_cmpstr(v[1], ==, "");
    g_assert_cmpstr(v[2], ==, "bc");
    g_assert_null(split_nul_strings((const uint8_t *)"a\0b", 3));
}

static void test_options(void)
{
    g_autoptr(GPtrArray) env = g_ptr_array_new();
    bool quiet = false, json = false, dashes;
    char *share = NULL;
    const struct option_spec specs[] = {
        { "quiet", 'q', OPTION_FLAG, &quiet },
        { "json", 'j', OPTION_FLAG, &json },
        { "share", 0, OPTION_STRING, &share },
        { "env", 'e', OPTION_LIST, env },
        { NULL },
    };
    char *good[] = { (char *)"-qj",       (char *)"--share=/x",
                     (char *)"-eA=1",     (char *)"--env",
                     (char *)"B=2",       (char *)"-e",
                     (char *)"C",         (char *)"PROG",
                     (char *)"--unknown", NULL };
    static const struct {
        const char *args[3], *error;
    } bad[] = {
        { { "--sahre=1" },
          "unknown option '--sahre=1'; did you mean "
          "'--share'?" },
        { { "--colour" }, "unknown option '--colour'" },
        { { "-qx" }, "unknown option '-x'" },
        { { "--quiet=1" }, "option '--quiet' takes no value" },
        { { "--share" }, "option '--share' needs a value" },
        { { "-e" }, "option '-e' needs a value" },
    };
    char *stop[] = { (char *)"-q", (char *)"--", (char *)"-x", NULL };
    char **args = good;
    GError *error = NULL;

    g_assert_true(options_parse(specs, &args, &dashes, &error));
    g_assert_true(quiet && json && !dashes);
    g_assert_cmpstr(share, ==, "/x");
    g_assert_cmpuint(env->len, ==, 3);
    g_assert_cmpstr(env->pdata[0], ==, "A=1");
    g_assert_cmpstr(env->pdata[1], ==, "B=2");
    g_assert_cmpstr(env->pdata[2], ==, "C");
    g_assert_cmpstr(*args, ==, "PROG");
    args = stop;
    g_assert_true(options_parse(specs, &args, &dashes, &error));
    g_assert_true(dashes);
    g_assert_cmpstr(*args, ==, "-x");
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        args = (char **)bad[i].args;
        g_assert_false(options_parse(specs, &args, &dashes, &error));
        g_assert_cmpstr(error->message, ==, bad[i].error);
        g_clear_error(&error);
    }
}

/* ---- memory ---- */

static void write_file(const char *root, const char *path, const char *text)
{
    g_autofree char *full = g_strconcat(root, path, NULL);
    g_autofree char *dir = g_path_get_dirname(full);
    g_autoptr(GError) error = NULL;

    g_mkdir_with_parents(dir, 0700);
    g_file_set_contents(full, text, -1, &error);
    g_assert_no_error(error);
}

static void remove_tree(const char *path)
{
    g_autofree char *command = g_strdup_printf("rm -rf '%s'", path);

    g_assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
}

static void check_memory(const char *root, uint64_t mb, const char *limit)
{
    g_autofree char *what = NULL;
    uint64_t room = preflight_memory_available(root, &what);

    g_assert_cmpuint(room >> 20, ==, mb);
    g_assert_cmpstr(what, ==, limit);
}

static void test_memory(void)
{
    g_autofree char *root = g_dir_make_tmp("memory-XXXXXX", NULL);

    write_file(root, "/proc/meminfo",
               "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n");
    check_memory(root, 8192, "MemAvailable of the host");
    /* version 2: the tightest of the groups above us */
    write_file(root, "/proc/self/cgroup", "0::/a/b\n");
    write_file(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    write_file(root, "/sys/fs/cgroup/a/b/memory.current", "0\n");
    check_memory(root, 8192, "MemAvailable of the host");
    write_file(root, "/sys/fs/cgroup/a/memory.max", "1073741824\n");
    write_file(root, "/sys/fs/cgroup/a/memory.current", "536870912\n");
    write_file(root, "/sys/fs/cgroup/a/memory.stat",
               "anon 1\ninactive_file 268435456\n");
    check_memory(root, 768, "the memory limit of cgroup /a");
    /* more in use than allowed leaves nothing, not a huge number */
    write_file(root, "/sys/fs/cgroup/a/memory.current", "5368709120\n");
    check_memory(root, 0, "the memory limit of cgroup /a");
    /* version 1, among other hierarchies */
    write_file(root, "/proc/self/cgroup",
               "9:name=systemd:/\n4:cpu,memory:/x\n0::/\n");
    write_file(root, "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
               "2147483648\n");
    write_file(root, "/sys/fs/cgroup/memory/x/memory.usage_in_bytes",
               "1073741824\n");
    write_file(root, "/sys/fs/cgroup/memory/x/memory.stat",
               "inactive_file 1\ntotal_inactive_file 0\n");
    check_memory(root, 1024, "the memory limit of cgroup /x");
    remove_tree(root);
}

static char *key_id(const char *root, const char *uuid, const char *text)
{
    g_autofree char *path = g_build_filename(root, "key", NULL);
    const struct machine_config config = { .key = path };
    char *id;

    write_file(root, "/key", text);
    id = preflight_key_id(&config, uuid);
    g_assert_cmpuint(strlen(id), ==, PREFLIGHT_KEY_ID_BYTES);
    g_assert_null(strstr(id, "0123456789abcdef"));
    return id;
}

static void test_key_id(void)
{
    g_autofree char *root = g_dir_make_tmp("key-XXXXXX", NULL);
    g_autofree char *id = key_id(root, "u", "0123456789abcdef0123456789abcdef");
    g_autofree char *psktool =
        key_id(root, "u", "name:0123456789ABCDEF0123456789abcdef\n");
    g_autofree char *other =
        key_id(root, "u", "0123456789abcdef0123456789abcdee");
    g_autofree char *machine =
        key_id(root, "v", "0123456789abcdef0123456789abcdef");

    g_assert_cmpstr(id, ==, psktool);
    g_assert_cmpstr(id, !=, other);
    g_assert_cmpstr(id, !=, machine);
    remove_tree(root);
    g_assert_null(preflight_key_id(&(struct machine_config) { 0 }, "u"));
}

/* ---- run directories ---- */

static void test_rundir(void)
{
    g_autofree char *top = g_dir_make_tmp("rundir-XXXXXX", NULL);
    g_autofree char *mine = NULL, *path = NULL;
    g_autoptr(GError) error = NULL;
    g_auto(GStrv) names = NULL, none = NULL;
    struct rundir *rd, *other;
    pid_t pid;

    g_setenv("XDG_RUNTIME_DIR", top, TRUE);
    rd = rundir_create("m", &error);
    g_assert_no_error(error);
    g_assert_true(g_str_has_prefix(rd->path, top));
    g_assert_cmpint(rundir_probe("m", &pid), ==, RUNDIR_OWNED);
    g_assert_cmpint(pid, ==, getpid());
    g_assert_null(rundir_create("m", &error));
    mine = g_strdup_printf("machine 'm' is running already, owned by process "
                           "%d; 'chimera down m' ends it, another [machine] "
                           "name= starts a second one",
                           (int)getpid());
    g_assert_cmpstr(error->message, ==, mine);
    g_clear_error(&error);
    other = rundir_create("n", &error);
    g_assert_no_error(error);
    names = rundir_list();
    g_assert_cmpuint(g_strv_length(names), ==, 2);
    rundir_remove(other->path);
    rundir_free(other);

    /* Nobody holds the lock: stale, whatever lies in it. */
    path = rundir_file(rd, "console-0.log");
    write_file("", path, "old");
    rundir_free(rd);
    rd = rundir_create("m", &error);
    g_assert_no_error(error);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    write_file("", path, "old");
    rundir_free(rd);
    none = rundir_list();
    g_assert_cmpuint(g_strv_length(none), ==, 0);
    g_assert_cmpint(rundir_probe("m", &pid), ==, RUNDIR_NONE);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    remove_tree(top);
}

/*
 * Another process holds the lock of "m", with @text in it. It holds it until
 * somebody has seen that for a while; then it removes the directory as one that
 * met a stale one does, or with @stays becomes the owner.
 */
static pid_t hold_rundir(const char *text, bool stays)
{
    g_autofree char *root = runtime_root_create(NULL);
    g_autofree char *dir = g_build_filename(root, "m", NULL);
    g_autofree char *lock = g_build_filename(dir, "lock", NULL);
    int ready[2];
    char byte;
    pid_t pid;

    g_assert_cmpint(pipe(ready), ==, 0);
    g_assert_cmpint(g_mkdir(dir, 0700), ==, 0);
    pid = fork();
    if (pid == 0) {
        int fd = open(lock, O_RDWR | O_CREAT, 0600);

        if (fd < 0 || flock(fd, LOCK_EX) < 0 ||
            write(fd, text, strlen(text)) < 0 || write(ready[1], "", 1) < 0) {
            _exit(1);
        }
        g_usleep(100000);
        if (stays) {
            g_autofree char *own = g_strdup_printf("%d\n", (int)getpid());

            if (ftruncate(fd, 0) < 0 ||
                pwrite(fd, own, strlen(own), 0) < 0) {
                _exit(1);
            }
            pause();
        }
        rundir_remove(dir);
        _exit(0);
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static void test_rundir_held(void)
{
    g_autofree char *top = g_dir_make_tmp("rundir-XXXXXX", NULL);
    g_autofree char *dead = NULL, *owned = NULL;
    g_autoptr(GError) error = NULL;
    struct rundir *rd;
    int status;
    pid_t pid;

    g_setenv("XDG_RUNTIME_DIR", top, TRUE);
    pid = fork();
    if (pid == 0) {
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
    dead = g_strdup_printf("%d\n", (int)pid);

    /* One that removes what it took for stale, with no or a dead owner */
    for (int i = 0; i < 2; i++) {
        pid = hold_rundir(i ? dead : "", false);
        rd = rundir_create("m", &error);
        g_assert_no_error(error);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        rundir_remove(rd->path);
        rundir_free(rd);
    }
    /* One that becomes the owner, with no word yet or after a dead one's */
    for (int i = 0; i < 2; i++) {
        pid = hold_rundir(i ? dead : "", true);
        g_assert_null(rundir_create("m", &error));
        owned = g_strdup_printf("owned by process %d;", (int)pid);
        g_assert_nonnull(strstr(error->message, owned));
        g_clear_error(&error);
        g_clear_pointer(&owned, g_free);
        g_assert_cmpint(kill(pid, SIGKILL), ==, 0);
        g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
        g_assert_cmpint(rundir_probe("m", &pid), ==, RUNDIR_STALE_REMOVED);
    }
    remove_tree(top);
}

static void test_runtime_root(void)
{
    g_autofree char *top = g_dir_make_tmp("root-XXXXXX", NULL);
    g_autofree char *root = g_build_filename(top, "chimera", NULL);
    g_autofree char *made = NULL, *text = NULL, *link = NULL;
    g_autoptr(GError) error = NULL;

    g_setenv("XDG_RUNTIME_DIR", top, TRUE);
    made = runtime_root_create(&error);
    g_assert_no_error(error);
    g_assert_cmpstr(made, ==, root);
    g_assert_cmpint(chmod(root, 0755), ==, 0);
    g_assert_null(runtime_root_create(&error));
    text = g_strdup_printf("%s is not safe to use: found a directory of user "
                           "%u with mode 0755, it must be a directory of user "
                           "%u with mode 0700",
                           root, (unsigned)getuid(), (unsigned)getuid());
    g_assert_cmpstr(error->message, ==, text);
    g_clear_error(&error);
    g_assert_cmpint(rmdir(root), ==, 0);
    g_assert_cmpint(symlink(top, root), ==, 0);
    g_assert_null(runtime_root_create(&error));
    link =
        g_strdup_printf("%s is not safe to use: found a symbolic link *", root);
    g_assert_true(g_pattern_match_simple(link, error->message));
    remove_tree(top);
    g_unsetenv("XDG_RUNTIME_DIR");
    g_free(root);
    root = runtime_root();
    g_free(text);
    text = g_strdup_printf("/tmp/chimera-%u", (unsigned)getuid());
    g_assert_cmpstr(root, ==, text);
}

/* ---- QEMU's command line ---- */

static const char *value_of(char **argv, const char *option, unsigned nth)
{
    for (; *argv; argv++) {
        if (!strcmp(*argv, option) && nth-- == 0) {
            return argv[1];
        }
    }
    return NULL;
}

static void test_qemu_argv(void)
{
    static const char text[] =
        "[machine]\nname=m\nshare=/a,b\nheartbeat-ms=100\n"
        "[node x]\nisa=x86_64\ncpus=2\nmemory=128M\nappend=debug\n"
        "network=user\nforward=2222:22\n"
        "[node y]\nisa=aarch64\nmemory=64M\n";
    g_autoptr(MachineConfig) c =
        config_parse("m.conf", text, strlen(text), NULL);
    struct qemu_spec spec = { .config = c,
                              .self = 0,
                              .accel = ACCEL_TCG,
                              .run_path = "/r,un",
                              .machine_uuid = "U" };
    g_auto(GStrv) x = qemu_argv(&spec);
    g_auto(GStrv) y = (spec.self = 1, qemu_argv(&spec));
    const char *nodes =
        "\"nodes\":[{\"name\":\"x\",\"isa\":\"x86_64\",\"cpus\":2,\"size\":"
        "134217728,\"address\":\"unix:/r,un/link-0.sock\"},{\"name\":\"y\","
        "\"isa\":\"aarch64\",\"cpus\":1,\"size\":67108864,\"address\":\"unix:"
        "/r,un/link-1.sock\"}]}";
    g_autofree char *object = g_strconcat(
        "{\"qom-type\":\"memory-backend-dsm\",\"id\":\"ram\",\"size\":"
        "134217728,\"machine-uuid\":\"U\",\"coherence\":\"shared\",\"self\":0,"
        "\"heartbeat-ms\":100,",
        nodes, NULL);

    g_assert_cmpstr(value_of(x, "-object", 0), ==, object);
    g_assert_cmpstr(value_of(x, "-name", 0), ==, "m/x");
    g_assert_cmpstr(value_of(x, "-M", 0), ==, "q35,memory-backend=ram");
    g_assert_cmpstr(value_of(x, "-bios", 0), ==, "qboot.rom");
    g_assert_cmpstr(value_of(x, "-cpu", 0), ==, "max,tcg-clocks=on");
    g_assert_cmpstr(value_of(x, "-smp", 0), ==, "2");
    g_assert_cmpstr(value_of(x, "-m", 0), ==, "128M");
    /* a comma in a path is written twice inside an option */
    g_assert_cmpstr(value_of(x, "-fsdev", 0), ==,
                    "local,id=share,path=/a,,b,security_model=none");
    g_assert_cmpstr(value_of(x, "-qmp", 0), ==,
                    "unix:/r,,un/qmp-0.sock,server=on,wait=off");
    g_assert_cmpstr(value_of(x, "-netdev", 0), ==,
                    "user,id=net,hostfwd=tcp:127.0.0.1:2222-:22");
    g_assert_cmpstr(value_of(x, "-append", 0), ==,
                    "console=ttyS0 quiet panic=-1 noreplace-smp no_timer_check "
                    "chimera.node=x chimera.share=/mnt/share "
                    "ip=10.0.2.15::10.0.2.2:255.255.255.0:x:eth0:off:10.0.2.3 "
                    "debug");
    g_assert_true(g_str_has_suffix(y[0], "/bin/qemu-system-aarch64"));
    g_assert_cmpstr(value_of(y, "-M", 0), ==,
                    "virt,gic-version=3,memory-backend=ram");
    g_assert_null(value_of(y, "-bios", 0));
    g_assert_null(value_of(y, "-netdev", 0));
    g_assert_cmpstr(value_of(y, "-append", 0), ==,
                    "console=ttyAMA0 quiet panic=-1 chimera.node=y "
                    "chimera.share=/mnt/share");
}

static void test_qemu_tlb_shootdown(void)
{
    static const char text[] = "[machine]\nname=m\n"
                               "[node x]\nisa=x86_64\ncpu-model=Nehalem\n"
                               "tlb-shootdown=paravirt\n";
    g_autoptr(MachineConfig) c =
        config_parse("m.conf", text, strlen(text), NULL);
    struct qemu_spec spec = { .config = c,
                              .accel = ACCEL_TCG,
                              .run_path = "/run",
                              .machine_uuid = "U" };
    g_auto(GStrv) tcg = qemu_argv(&spec);
    g_auto(GStrv) kvm = (spec.accel = ACCEL_KVM, qemu_argv(&spec));

    g_assert_cmpstr(value_of(tcg, "-cpu", 0), ==,
                    "Nehalem,tcg-clocks=on,tcg-tlb-flush=on");
    /* It is TCG's; KVM has a remedy of its own. */
    g_assert_cmpstr(value_of(kvm, "-cpu", 0), ==, "Nehalem");
}

static void test_qemu_hosts(void)
{
    static const char text[] =
        "[machine]\nname=m\ncoherence=dsm\nkey=/k,e y\n"
        "start-command=ssh {host} {command}\n"
        "[node x]\nisa=x86_64\naddress=tcp:192.0.2.1:7001\n"
        "[node y]\nisa=aarch64\naddress=tcp:192.0.2.2:7001\nhost=b\n";
    g_autoptr(MachineConfig) c =
        config_parse("m.conf", text, strlen(text), NULL);
    struct qemu_spec spec = { .config = c,
                              .accel = ACCEL_TCG,
                              .run_path = "/run",
                              .machine_uuid = "U" };
    g_auto(GStrv) x = qemu_argv(&spec);
    g_auto(GStrv) y = (spec.self = 1, spec.run_path = NULL, qemu_argv(&spec));

    g_assert_nonnull(strstr(value_of(x, "-object", 0),
                            ",\"key-file\":\"/k,e y\",\"nodes\":["));
    g_assert_nonnull(strstr(value_of(y, "-object", 0),
                            "\"address\":\"tcp:192.0.2.1:7001\""));
    g_assert_cmpstr(value_of(x, "-qmp", 0), ==,
                    "unix:/run/qmp-0.sock,server=on,wait=off");
    g_assert_null(value_of(y, "-qmp", 0));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/util/did-you-mean", test_did_you_mean);
    g_test_add_func("/util/sizes", test_sizes);
    g_test_add_func("/util/printable", test_printable);
    g_test_add_func("/util/tail", test_tail);
    g_test_add_func("/util/nul-strings", test_nul_strings);
    g_test_add_func("/options", test_options);
    g_test_add_func("/preflight/memory", test_memory);
    g_test_add_func("/preflight/key-id", test_key_id);
    g_test_add_func("/rundir", test_rundir);
    g_test_add_func("/rundir/held", test_rundir_held);
    g_test_add_func("/rundir/root", test_runtime_root);
    g_test_add_func("/qemu/argv", test_qemu_argv);
    g_test_add_func("/qemu/tlb-shootdown", test_qemu_tlb_shootdown);
    g_test_add_func("/qemu/hosts", test_qemu_hosts);
    return g_test_run();
}
