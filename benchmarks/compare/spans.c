/* What MAX's operations take, collected through its profiling annotations.

   MAX calls the functions below for every operation if it is started with
   MODULAR_ENABLE_PROFILING=on and MODULAR_PROFILER_SHIM naming this library.  Times
   are added up by name and thread, the children's taken out of their parent's. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { NAMES = 4096, LENGTH = 120, DEPTH = 256 };

struct total {
  char name[LENGTH];
  double own, whole;
  long count;
};
struct open_span {
  int which;
  double started, children;
};

static struct total totals[NAMES];
static int used;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct open_span stack[DEPTH];
static __thread int depth;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The entry of a name; the last one takes all that are too many. */
static int entry(const char *name) {
  int i = 0;
  while (i < used && strncmp(totals[i].name, name, LENGTH - 1)) i++;
  if (i == used && used < NAMES - 1)
    strncpy(totals[used++].name, name, LENGTH - 1);
  return i;
}

void m_ext_profiler_set_enabled(int enabled) { (void)enabled; }
int m_ext_profiler_is_enabled(void) { return 1; }
void m_ext_profiler_mark(const char *name, uint32_t colour) {
  (void)name, (void)colour;
}

int m_ext_profiler_range_push(const char *name, uint32_t colour) {
  (void)colour;
  if (!name || depth == DEPTH) return 0;
  pthread_mutex_lock(&lock);
  int which = entry(name);
  pthread_mutex_unlock(&lock);
  stack[depth++] = (struct open_span){which, now(), 0};
  return 1;
}

int m_ext_profiler_range_pop(void) {
  if (!depth) return 0;
  struct open_span span = stack[--depth];
  double took = now() - span.started;
  if (depth) stack[depth - 1].children += took;
  pthread_mutex_lock(&lock);
  totals[span.which].whole += took;
  totals[span.which].own += took - span.children;
  totals[span.which].count++;
  pthread_mutex_unlock(&lock);
  return 1;
}

uint64_t m_ext_profiler_range_start(const char *name, uint32_t colour) {
  (void)name, (void)colour;
  return 0;
}
void m_ext_profiler_range_end(uint64_t id) { (void)id; }

/* For the benchmark, through ctypes. */
void spans_reset(void) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < used; i++) totals[i].own = totals[i].whole = 0, totals[i].count = 0;
  pthread_mutex_unlock(&lock);
}
int spans_write(const char *path) {
  FILE *file = fopen(path, "w");
  if (!file) return 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < used; i++)
    if (totals[i].count)
      fprintf(file, "%.9f\t%.9f\t%ld\t%s\n", totals[i].own, totals[i].whole,
              totals[i].count, totals[i].name);
  pthread_mutex_unlock(&lock);
  fclose(file);
  return 1;
}
