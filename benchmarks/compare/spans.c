/* What MAX's operations take, collected through its profiling annotations.

   MAX calls the functions below for every operation if it is started with
   MODULAR_ENABLE_PROFILING=on and MODULAR_PROFILER_SHIM naming this library.  Times
   are added up by name, the children's taken out of their parent's.  Operations that
   don't need each other run side by side on the same cores: a moment is shared out
   among those that are under way. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAMES = 4096, LENGTH = 120, DEPTH = 256 };

struct total {
  char name[LENGTH];
  double own, share;
  long count;
};
struct open_span {
  int which;
  double started, children;
};
/* What a thread is in, innermost last; kept when the thread ends. */
struct thread {
  struct open_span stack[DEPTH];
  int depth, is_worker;
  struct thread *next;
};

static struct total totals[NAMES];
static int used;
static struct thread *threads;
static double shared_until;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread struct thread *this_thread;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Whether this is one of MAX's threads, named after a fire and "Thread0" and so on, which
   run a graph's operations; the others' spans are calls of MAX's Python API. */
static int is_worker(void) {
  char name[16] = "";
  pthread_getname_np(pthread_self(), name, sizeof name);
  return strstr(name, "Thread") != NULL;
}

/* The entry of a name; the last one takes all that are too many. */
static int entry(const char *name) {
  int i = 0;
  while (i < used && strncmp(totals[i].name, name, LENGTH - 1)) i++;
  if (i == used && used < NAMES - 1)
    strncpy(totals[used++].name, name, LENGTH - 1);
  return i;
}

/* The operation that a thread runs. */
static struct total *under_way(const struct thread *thread) {
  if (!thread->is_worker || !thread->depth) return NULL;
  return &totals[thread->stack[thread->depth - 1].which];
}

/* Shares out the time since something last began or ended. */
static void share_out(double time) {
  int several = 0;
  for (struct thread *each = threads; each; each = each->next)
    several += under_way(each) != NULL;
  for (struct thread *each = threads; each; each = each->next) {
    struct total *total = under_way(each);
    if (total) total->share += (time - shared_until) / several;
  }
  shared_until = time;
}

void m_ext_profiler_set_enabled(int enabled) { (void)enabled; }
int m_ext_profiler_is_enabled(void) { return 1; }
void m_ext_profiler_mark(const char *name, uint32_t color) {
  (void)name, (void)color;
}

int m_ext_profiler_range_push(const char *name, uint32_t color) {
  (void)color;
  struct thread *thread = this_thread;
  if (!name || (thread && thread->depth == DEPTH)) return 0;
  if (!thread && !(thread = calloc(1, sizeof *thread))) return 0;
  pthread_mutex_lock(&lock);
  if (!this_thread) {
    thread->is_worker = is_worker();
    thread->next = threads;
    threads = this_thread = thread;
  }
  double time = now();
  share_out(time);
  thread->stack[thread->depth++] = (struct open_span){entry(name), time, 0};
  pthread_mutex_unlock(&lock);
  return 1;
}

int m_ext_profiler_range_pop(void) {
  struct thread *thread = this_thread;
  if (!thread || !thread->depth) return 0;
  pthread_mutex_lock(&lock);
  double time = now();
  share_out(time);
  struct open_span span = thread->stack[--thread->depth];
  double took = time - span.started;
  if (thread->depth) thread->stack[thread->depth - 1].children += took;
  totals[span.which].own += took - span.children;
  totals[span.which].count++;
  pthread_mutex_unlock(&lock);
  return 1;
}

uint64_t m_ext_profiler_range_start(const char *name, uint32_t color) {
  (void)name, (void)color;
  return 0;
}
void m_ext_profiler_range_end(uint64_t id) { (void)id; }

/* For the benchmark, through ctypes. */
void spans_reset(void) {
  pthread_mutex_lock(&lock);
  for (int i = 0; i < used; i++) totals[i].own = totals[i].share = 0, totals[i].count = 0;
  shared_until = now();
  pthread_mutex_unlock(&lock);
}
int spans_write(const char *path) {
  FILE *file = fopen(path, "w");
  if (!file) return 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < used; i++)
    if (totals[i].count)
      fprintf(file, "%.9f\t%.9f\t%ld\t%s\n", totals[i].own, totals[i].share,
              totals[i].count, totals[i].name);
  pthread_mutex_unlock(&lock);
  fclose(file);
  return 1;
}
