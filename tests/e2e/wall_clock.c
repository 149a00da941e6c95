// SPDX-License-Identifier: Apache-2.0
/*
 * Shifts the wall clock of the processes that preload it, and nothing else: monotonic clocks and
 * timed waits stay the kernel's. (libfaketime 0.9.10 also shifts absolute monotonic sleeps, which
 * then fail with EINVAL.) The file WALL_CLOCK_OFFSET names holds the offset: nanoseconds, int64.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t second = 1000000000;
static const volatile int64_t *offset;

__attribute__((constructor)) static void map_offset(void)
{
	const char *path = getenv("WALL_CLOCK_OFFSET");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	void *mapped = mmap(NULL, sizeof(*offset), PROT_READ, MAP_SHARED, fd, 0);
	offset = mapped == MAP_FAILED ? NULL : mapped;
	close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);
	if (failed || !offset || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
		return failed;
	int64_t shifted = now->tv_sec * second + now->tv_nsec + *offset;
	now->tv_sec = shifted / second;
	now->tv_nsec = shifted % second;
	return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	(void)zone;
	struct timespec fine;
	if (clock_gettime(CLOCK_REALTIME, &fine))
		return -1;
	now->tv_sec = fine.tv_sec;
	now->tv_usec = fine.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec fine;
	if (clock_gettime(CLOCK_REALTIME, &fine))
		return -1;
	if (now)
		*now = fine.tv_sec;
	return fine.tv_sec;
}
