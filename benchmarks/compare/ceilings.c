/* What this machine can do at most: `ceilings THREADS MIB`.

   Prints read bandwidth in GB/s with all threads and with one, float32 multiply-adds in
   GFLOP/s and int8 products in Gop/s, each the best of some repetitions, with two
   operations a multiply-add.  Data is hidden from the optimizer, or it would compute
   less than is counted. */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { CHAINS = 12, REPEATS = 3, MOST_THREADS = 256 };
#define LOOPS 20000000L
#define HIDE(value) __asm__ volatile("" : "+x"(value))

static float *memory;
static long floats, floats_each;
static volatile float float_sink;
static volatile int int_sink;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *multiply_floats(void *unused) {
  (void)unused;
  __m256 sums[CHAINS], factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(1e-3f);
  for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_set1_ps((float)i);
  for (long n = 0; n < LOOPS; n++) {
    HIDE(factor);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_fmadd_ps(sums[i], factor, term);
  }
  for (int i = 1; i < CHAINS; i++) sums[0] = _mm256_add_ps(sums[0], sums[i]);
  float_sink = _mm256_cvtss_f32(sums[0]);
  return 0;
}

static void *multiply_bytes(void *unused) {
  (void)unused;
  __m256i sums[CHAINS], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(2);
  __m256i one = _mm256_set1_epi16(1);
  for (int i = 0; i < CHAINS; i++) sums[i] = _mm256_set1_epi32(i);
  for (long n = 0; n < LOOPS; n++) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++) {
      HIDE(a);
      sums[i] = _mm256_add_epi32(
          sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one));
    }
  }
  for (int i = 1; i < CHAINS; i++) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
  int_sink = _mm256_cvtsi256_si32(sums[0]);
  return 0;
}

static void *read_memory(void *number) {
  const float *from = memory + (long)number * floats_each;
  __m256 a = _mm256_setzero_ps(), b = a, c = a, d = a;
  for (long i = 0; i < floats_each; i += 32) {
    a = _mm256_add_ps(a, _mm256_loadu_ps(from + i));
    b = _mm256_add_ps(b, _mm256_loadu_ps(from + i + 8));
    c = _mm256_add_ps(c, _mm256_loadu_ps(from + i + 16));
    d = _mm256_add_ps(d, _mm256_loadu_ps(from + i + 24));
  }
  float_sink = _mm256_cvtss_f32(_mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d)));
  return 0;
}

/* Seconds of one repetition. */
static double once(void *(*work)(void *), long threads) {
  pthread_t started[MOST_THREADS];
  double from = now();
  for (long i = 0; i < threads; i++)
    if (pthread_create(&started[i], 0, work, (void *)i)) exit(1);
  for (long i = 0; i < threads; i++) pthread_join(started[i], 0);
  return now() - from;
}

/* Seconds of the fastest repetition. */
static double fastest(void *(*work)(void *), long threads) {
  double best = 1e9;
  for (int repeat = 0; repeat < REPEATS; repeat++) {
    double took = once(work, threads);
    if (took < best) best = took;
  }
  return best;
}

/* Whether there is memory to read, which is allocated once. */
static int prepare(long mib) {
  if (memory) return 1;
  floats = mib << 18;
  memory = malloc((size_t)floats * sizeof *memory);
  for (long i = 0; memory && i < floats; i++) memory[i] = (float)i;
  return memory != 0;
}

/* Bytes that so many threads read together. */
static double divide(long threads) {
  floats_each = floats / threads / 32 * 32;
  return (double)threads * (double)floats_each * sizeof *memory;
}

/* For the benchmark, through ctypes: GB/s of reading some memory once, 0 if there is
   none. */
double read_once(long threads, long mib) {
  if (threads < 1 || threads > MOST_THREADS || !prepare(mib)) return 0;
  double bytes = divide(threads);
  return bytes / once(read_memory, threads) / 1e9;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  long threads = atol(arguments[1]), mib = atol(arguments[2]);
  if (threads < 1 || threads > MOST_THREADS || mib < 1) return 2;
  if (!prepare(mib)) return 1;
  double alone = divide(1), fastest_alone = fastest(read_memory, 1);
  double bytes = divide(threads), work = (double)threads * LOOPS * CHAINS;
  printf("%.3f %.3f %.3f %.3f\n", bytes / fastest(read_memory, threads) / 1e9,
         alone / fastest_alone / 1e9,
         work * 8 * 2 / fastest(multiply_floats, threads) / 1e9,
         work * 32 * 2 / fastest(multiply_bytes, threads) / 1e9);
  return 0;
}
