/* Stands between a program and the wall clock, as an LD_PRELOAD: adds to it what a file says, which may change while the program runs.

   FAULTS_CLOCK names a file of eight bytes, a signed number of nanoseconds in the machine's order. Only the wall clock is moved: the clocks that
   neither jump nor run while the device is off are the kernel's, as they are where an operator sets the time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t *moved;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTS_CLOCK");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *there = mmap(NULL, sizeof *moved, PROT_READ, MAP_SHARED, fd, 0);
  if (there != MAP_FAILED) moved = there;
  close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *to) {
  int done = (int)syscall(SYS_clock_gettime, clock, to);
  if (done == 0 && moved && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t at = (int64_t)to->tv_sec * SECOND + to->tv_nsec + *moved;
    to->tv_sec = at / SECOND;
    to->tv_nsec = at % SECOND;
  }
  return done;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
  struct timespec now;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  if (to) { to->tv_sec = now.tv_sec; to->tv_usec = now.tv_nsec / 1000; }
  return 0;
}

time_t time(time_t *to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}
