/* Stands between a program and its files, as an LD_PRELOAD: counts, records and breaks every change below one folder.

   A change is what a power cut could lose: a write, a new, moved or removed name, another size, a sync. Each is recorded in a journal outside of
   the folder, with its bytes, before it is done; tests/faults/disk.py builds from it what a disk would have after the power was cut. At change
   number `at` the fault begins: the process is killed, or all of its changes fail with an error number, or none reaches the disk any more, which
   a signal reports (so that a simulated machine can be cut off in a process that goes on). Reads are never touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, KILL, FAIL, CUT };                                           /* how it breaks */
enum { WRITE = 1, TRUNCATE, SYNC, CREATE, MKDIR, RENAME, UNLINK, LINK, SYMLINK, EXTEND }; /* what is recorded */
#define FDS 65536

struct record { uint32_t size; uint32_t kind; int64_t number; int64_t ino; uint32_t first, second, data; uint32_t pad; };

static char root[PATH_MAX];
static size_t root_length;
static int journal = -1, is_memory, how = NONE, error_number = EIO;
static long count, at = -1, fired = -1, until = -1;
static unsigned char watched[FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

void faults_watch(const char *folder, const char *to) {
  if (journal >= 0) { syscall(SYS_close, journal); journal = -1; }
  root_length = 0;
  memset(watched, 0, sizeof watched);
  count = 0; at = -1; fired = -1; how = NONE; until = -1;
  is_memory = folder && !strncmp(folder, "/dev/shm/", 9); /* a sync of memory does nothing */
  if (folder && *folder) {
    if (!realpath(folder, root)) { strncpy(root, folder, sizeof root - 1); }
    root_length = strlen(root);
    if (to && *to) journal = (int)syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    char link[64], path[PATH_MAX];
    for (int fd = 0; fd < 1024; fd++) { /* what was open before */
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      ssize_t n = readlink(link, path, sizeof path - 1);
      if (n > 0) { path[n] = 0; watched[fd] = !strncmp(path, root, root_length) && path[root_length] == '/'; }
    }
  }
}
void faults_arm(long number, int kind, int error, long length) {
  at = number; how = kind; error_number = error; fired = -1; until = length < 0 ? -1 : number + length;
}
long faults_count(void) { return count; }
long faults_fired(void) { return fired; }

__attribute__((constructor)) static void begin(void) {
  const char *folder = getenv("FAULTS_FOLDER");
  if (!folder) return;
  faults_watch(folder, getenv("FAULTS_JOURNAL"));
  const char *number = getenv("FAULTS_AT"), *kind = getenv("FAULTS_HOW"), *error = getenv("FAULTS_ERROR"), *length = getenv("FAULTS_LENGTH");
  if (number) faults_arm(atol(number), kind ? atoi(kind) : KILL, error ? atoi(error) : EIO, length ? atol(length) : -1);
}

static int resolve(int dirfd, const char *path, char *to) { /* Whether it is below the folder; `to` is what it is called from there. */
  char whole[PATH_MAX], parent[PATH_MAX];
  if (!root_length || !path) return 0;
  if (path[0] == '/' ) snprintf(whole, sizeof whole, "%s", path);
  else {
    char at_link[64];
    if (dirfd == AT_FDCWD) { if (!getcwd(parent, sizeof parent)) return 0; }
    else {
      snprintf(at_link, sizeof at_link, "/proc/self/fd/%d", dirfd);
      ssize_t n = readlink(at_link, parent, sizeof parent - 1);
      if (n < 0) return 0;
      parent[n] = 0;
    }
    if ((size_t)snprintf(whole, sizeof whole, "%s/%s", parent, path) >= sizeof whole) return 0;
  }
  char *slash = strrchr(whole, '/');
  if (!slash) return 0;
  size_t length = strlen(whole);
  if (how == CUT && length > 4 && !strcmp(whole + length - 4, "-shm")) return 0; /* it is mapped: to lie about its size is a SIGBUS */
  char name[NAME_MAX + 1];
  snprintf(name, sizeof name, "%s", slash + 1);
  *slash = 0;
  if (!realpath(*whole ? whole : "/", parent)) return 0; /* the name itself may be a link, which is not followed */
  char full[PATH_MAX + NAME_MAX + 2];
  snprintf(full, sizeof full, "%s/%s", parent, name);
  if (strncmp(full, root, root_length) || full[root_length] != '/') return 0;
  if (to) snprintf(to, PATH_MAX, "%s", full + root_length + 1);
  return 1;
}

/* Ask whether a change is done. Returns 0: yes, and `record` follows; -1: it fails, errno is set; 1: say that it was done. */
static int decide(int kind) {
  pthread_mutex_lock(&lock);
  long mine = count++;
  int result = 0;
  if (how != NONE && at >= 0 && mine >= at && (until < 0 || mine < until)) {
    /* A full disk still syncs, renames, shortens and removes; a read-only one has nothing to sync. */
    int goes = error_number == ENOSPC ? kind == SYNC || kind == UNLINK || kind == RENAME || kind == TRUNCATE : error_number == EROFS && kind == SYNC;
    if (how == FAIL && !goes) {
      if (fired < 0) fired = mine;
      errno = error_number;
      result = -1;
    } else if (how == CUT) {
      if (fired < 0) { fired = mine; raise(SIGUSR1); }
      result = 1;
    } else if (how == KILL) {
      kill(getpid(), SIGKILL);
      for (;;) pause();
    }
  }
  if (result) pthread_mutex_unlock(&lock);
  return result;
}
/* Take down what was done, if it was, and let the next change begin. */
static void record(int done, int kind, int64_t number, int64_t ino, const char *first, const char *second, const void *data, size_t size) {
  int kept = errno;
  if (done && journal >= 0) {
    struct record r = {0, (uint32_t)kind, number, ino, first ? (uint32_t)strlen(first) : 0, second ? (uint32_t)strlen(second) : 0, (uint32_t)size, 0};
    r.size = (uint32_t)(sizeof r + r.first + r.second + r.data);
    struct iovec parts[4] = {{&r, sizeof r}, {(void *)first, r.first}, {(void *)second, r.second}, {(void *)data, size}};
    syscall(SYS_writev, journal, parts, 4);
  }
  pthread_mutex_unlock(&lock);
  errno = kept;
}
static int64_t ino_of(int fd) { struct stat s; return fstat(fd, &s) ? 0 : (int64_t)s.st_ino; }
static int is_watched(int fd) { return root_length && fd >= 0 && fd < FDS && watched[fd]; }

static int followed(int fd, int is_watched) {
  if (fd >= 0 && fd < FDS) watched[fd] = (unsigned char)is_watched;
  return fd;
}
static int do_open(int dirfd, const char *path, int flags, mode_t mode) {
  char name[PATH_MAX];
  struct stat s;
  int r = 0, fd;
  if (!root_length || !resolve(dirfd, path, name)) return followed((int)syscall(SYS_openat, dirfd, path, flags | O_LARGEFILE, mode), 0);
  int there = !fstatat(dirfd, path, &s, 0);
  int is_new = (flags & O_CREAT) && !there, is_emptied = there && (flags & O_TRUNC) && !(flags & O_EXCL) && s.st_size;
  if (!is_new && !is_emptied) {
    int read_only = how == FAIL && error_number == EROFS && at >= 0 && count >= at && (until < 0 || count < until);
    if (read_only && (flags & O_ACCMODE) != O_RDONLY) { if (fired < 0) fired = count; errno = EROFS; return -1; }
    return followed((int)syscall(SYS_openat, dirfd, path, flags | O_LARGEFILE, mode), 1);
  }
  r = decide(is_new ? CREATE : TRUNCATE);
  if (r < 0) return -1;
  if (r > 0) return followed((int)syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC), 1);
  fd = (int)syscall(SYS_openat, dirfd, path, flags | O_LARGEFILE, mode);
  record(fd >= 0, is_new ? CREATE : TRUNCATE, 0, fd >= 0 ? ino_of(fd) : 0, is_new ? name : NULL, NULL, NULL, 0);
  return followed(fd, 1);
}
#define MODE_OF(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
int open(const char *path, int flags, ...) { MODE_OF(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE_OF(flags) return do_open(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE_OF(flags) return do_open(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
  if (fd >= 0 && fd < FDS) watched[fd] = 0;
  return (int)syscall(SYS_close, fd);
}

FILE *fopen(const char *path, const char *mode) { REAL(FILE *, fopen, const char *, const char *); FILE *f = real(path, mode); if (f) followed(fileno(f), resolve(AT_FDCWD, path, NULL)); return f; }
FILE *fopen64(const char *path, const char *mode) { REAL(FILE *, fopen64, const char *, const char *); FILE *f = real(path, mode); if (f) followed(fileno(f), resolve(AT_FDCWD, path, NULL)); return f; }

static ssize_t positioned(int fd, const void *data, size_t size, off_t offset) {
  int r = decide(WRITE);
  if (r) return r < 0 ? -1 : (ssize_t)size;
  ssize_t done = (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset);
  record(done > 0, WRITE, (int64_t)offset, ino_of(fd), NULL, NULL, data, done > 0 ? (size_t)done : 0);
  return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return is_watched(fd) ? positioned(fd, data, size, offset) : (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return is_watched(fd) ? positioned(fd, data, size, offset) : (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset); }
ssize_t write(int fd, const void *data, size_t size) {
  if (is_watched(fd)) {
    struct stat s;
    off_t offset = fcntl(fd, F_GETFL) & O_APPEND ? (fstat(fd, &s) ? 0 : s.st_size) : lseek(fd, 0, SEEK_CUR);
    if (offset >= 0) {
      int r = decide(WRITE);
      if (r) return r < 0 ? -1 : (ssize_t)size;
      ssize_t done = (ssize_t)syscall(SYS_write, fd, data, size);
      record(done > 0, WRITE, (int64_t)offset, ino_of(fd), NULL, NULL, data, done > 0 ? (size_t)done : 0);
      return done;
    }
  }
  return (ssize_t)syscall(SYS_write, fd, data, size);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
  if (!is_watched(fd)) return (ssize_t)syscall(SYS_writev, fd, parts, n);
  ssize_t done = 0;
  for (int i = 0; i < n; i++) {
    ssize_t r = write(fd, parts[i].iov_base, parts[i].iov_len);
    if (r < 0) return done ? done : -1;
    done += r;
  }
  return done;
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) {
  if (is_watched(out)) { errno = ENOTSOCK; return -1; } /* Python then copies by read and write */
  return (ssize_t)syscall(SYS_sendfile, out, in, offset, size);
}
ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) { return sendfile(out, in, (off_t *)offset, size); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned int flags) {
  if (is_watched(out)) { errno = EXDEV; return -1; }
  return (ssize_t)syscall(SYS_copy_file_range, in, from, out, to, size, flags);
}

static int synced(int fd, long call) {
  if (is_watched(fd)) {
    char link[64], path[PATH_MAX];
    struct stat s;
    const char *folder = NULL;
    if (!fstat(fd, &s) && S_ISDIR(s.st_mode)) {
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      ssize_t n = readlink(link, path, sizeof path - 1);
      path[n < 0 ? 0 : n] = 0;
      folder = strlen(path) > root_length ? path + root_length + 1 : ".";
    }
    int r = decide(SYNC);
    if (r) return r < 0 ? -1 : 0;
    int done = is_memory ? 0 : (int)syscall(call, fd);
    record(done == 0, SYNC, 0, (int64_t)s.st_ino, folder, NULL, NULL, 0);
    return done;
  }
  return (int)syscall(call, fd);
}
/* The folder itself is below the one that is watched, too: a sync of it makes its names durable. */
static int root_descriptor(int fd) {
  char link[64], path[PATH_MAX];
  if (!root_length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return !strcmp(path, root);
}
int fsync(int fd) { if (root_descriptor(fd)) watched[fd] = 1; return synced(fd, SYS_fsync); }
int fdatasync(int fd) { if (root_descriptor(fd)) watched[fd] = 1; return synced(fd, SYS_fdatasync); }

static int resized(int fd, off_t size) {
  int r = decide(TRUNCATE);
  if (r) return r < 0 ? -1 : 0;
  int done = (int)syscall(SYS_ftruncate, fd, size);
  record(done == 0, TRUNCATE, (int64_t)size, ino_of(fd), NULL, NULL, NULL, 0);
  return done;
}
int ftruncate(int fd, off_t size) { return is_watched(fd) ? resized(fd, size) : (int)syscall(SYS_ftruncate, fd, size); }
int ftruncate64(int fd, off64_t size) { return is_watched(fd) ? resized(fd, size) : (int)syscall(SYS_ftruncate, fd, size); }
int truncate(const char *path, off_t size) {
  char name[PATH_MAX];
  struct stat s;
  if (resolve(AT_FDCWD, path, name) && !stat(path, &s)) {
    int r = decide(TRUNCATE);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_truncate, path, size);
    record(done == 0, TRUNCATE, (int64_t)size, (int64_t)s.st_ino, NULL, NULL, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_truncate, path, size);
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }
int posix_fallocate(int fd, off_t offset, off_t size) {
  REAL(int, posix_fallocate, int, off_t, off_t);
  if (!is_watched(fd)) return real(fd, offset, size);
  int r = decide(EXTEND);
  if (r) return r < 0 ? error_number : 0;
  int error = real(fd, offset, size);
  record(error == 0, EXTEND, (int64_t)(offset + size), ino_of(fd), NULL, NULL, NULL, 0);
  return error;
}
int posix_fallocate64(int fd, off64_t offset, off64_t size) { return posix_fallocate(fd, offset, size); }
int fallocate(int fd, int mode, off_t offset, off_t size) {
  if (is_watched(fd) && !(mode & FALLOC_FL_KEEP_SIZE)) {
    int r = decide(EXTEND);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_fallocate, fd, mode, offset, size);
    record(done == 0, EXTEND, (int64_t)(offset + size), ino_of(fd), NULL, NULL, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_fallocate, fd, mode, offset, size);
}

int mkdirat(int dirfd, const char *path, mode_t mode) {
  char name[PATH_MAX];
  if (resolve(dirfd, path, name) && faccessat(dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW)) {
    int r = decide(MKDIR);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_mkdirat, dirfd, path, mode);
    record(done == 0, MKDIR, 0, 0, name, NULL, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_mkdirat, dirfd, path, mode);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int dirfd, const char *path, int flags) {
  char name[PATH_MAX];
  if (resolve(dirfd, path, name) && !faccessat(dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW)) {
    int r = decide(UNLINK);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_unlinkat, dirfd, path, flags);
    record(done == 0, UNLINK, 0, 0, name, NULL, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_unlinkat, dirfd, path, flags);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) { int r = unlink(path); return r && errno == EISDIR ? rmdir(path) : r; }

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  char first[PATH_MAX], second[PATH_MAX];
  if (resolve(from_fd, from, first) && resolve(to_fd, to, second) && !faccessat(from_fd, from, F_OK, AT_SYMLINK_NOFOLLOW)) {
    int r = decide(RENAME);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
    record(done == 0, RENAME, 0, 0, first, second, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
  char first[PATH_MAX], second[PATH_MAX];
  if (resolve(from_fd, from, first) && resolve(to_fd, to, second) && faccessat(to_fd, to, F_OK, AT_SYMLINK_NOFOLLOW)) {
    int r = decide(LINK);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
    record(done == 0, LINK, 0, 0, first, second, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int dirfd, const char *path) {
  char name[PATH_MAX];
  if (resolve(dirfd, path, name) && faccessat(dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW)) {
    int r = decide(SYMLINK);
    if (r) return r < 0 ? -1 : 0;
    int done = (int)syscall(SYS_symlinkat, target, dirfd, path);
    record(done == 0, SYMLINK, 0, 0, name, target, NULL, 0);
    return done;
  }
  return (int)syscall(SYS_symlinkat, target, dirfd, path);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }
