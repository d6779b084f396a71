/* Threads: each worker starts with an equal share of the tasks and, when that is done, takes from the others' shares.
 *
 * Equal shares keep a worker on the part of the picture that its cache may still hold; taking over evens out what a
 * busy machine or unequal cores disturb. Between jobs the workers spin for a moment, for the next one mostly follows
 * within microseconds, and then sleep.
 */
#define _GNU_SOURCE
#include "team.h"
#include "nst.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define SPIN 4000 /* looks at a flag before going to sleep, some 50 microseconds */
#define MAX_THREADS 256

typedef struct {
    _Alignas(64) atomic_long next; /* a cache line of its own */
    long end;
} share;

struct nst_team {
    int threads;
    pid_t process; /* a forked child has none of its parent's threads */
    pthread_t *others;
    pthread_mutex_t in_use; /* held by the caller whose job the team is on */
    pthread_mutex_t lock;   /* of the two conditions */
    pthread_cond_t wake, done;
    share *shares;
    nst_task *task;
    void *job;
    _Alignas(64) atomic_long generation; /* counts jobs; -1 ends the workers */
    _Alignas(64) atomic_int busy;        /* workers that have not finished the current job */
};

typedef struct {
    nst_team *team;
    int worker;
} start;

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void work(nst_team *t, int worker)
{
    for (int i = 0; i < t->threads; i++) {
        share *s = &t->shares[(worker + i) % t->threads];
        long task;
        while ((task = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed)) < s->end)
            t->task(t->job, task, worker);
    }
}

static void *worker_main(void *argument)
{
    start s = *(start *)argument;
    nst_team *t = s.team;
    free(argument);
    long seen = 0;
    for (;;) {
        long now = seen;
        for (int i = 0; i < SPIN && now == seen; i++) {
            pause_briefly();
            now = atomic_load_explicit(&t->generation, memory_order_acquire);
        }
        if (now == seen) {
            pthread_mutex_lock(&t->lock);
            while ((now = atomic_load(&t->generation)) == seen) pthread_cond_wait(&t->wake, &t->lock);
            pthread_mutex_unlock(&t->lock);
        }
        if (now < 0) return NULL;
        seen = now;
        work(t, s.worker);
        if (atomic_fetch_sub_explicit(&t->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->done);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

void team_run(nst_team *t, long n, nst_task *task, void *job)
{
    if (t->threads == 1 || n <= 1 || getpid() != t->process || pthread_mutex_trylock(&t->in_use)) {
        for (long i = 0; i < n; i++) task(job, i, 0); /* another caller's job is on: this one goes on alone */
        return;
    }
    t->task = task;
    t->job = job;
    for (int i = 0; i < t->threads; i++) {
        atomic_store_explicit(&t->shares[i].next, n * i / t->threads, memory_order_relaxed);
        t->shares[i].end = n * (i + 1) / t->threads;
    }
    atomic_store(&t->busy, t->threads - 1);
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add_explicit(&t->generation, 1, memory_order_release);
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    work(t, 0);
    for (int i = 0; i < SPIN && atomic_load_explicit(&t->busy, memory_order_acquire); i++) pause_briefly();
    if (atomic_load_explicit(&t->busy, memory_order_acquire)) {
        pthread_mutex_lock(&t->lock);
        while (atomic_load(&t->busy)) pthread_cond_wait(&t->done, &t->lock);
        pthread_mutex_unlock(&t->lock);
    }
    pthread_mutex_unlock(&t->in_use);
}

nst_team *nst_team_new(int threads)
{
    if (threads < 1) threads = 1;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    nst_team *t = NULL;
    if (posix_memalign((void **)&t, 64, sizeof *t)) return NULL;
    t->process = getpid();
    t->others = calloc((size_t)threads, sizeof *t->others);
    t->shares = NULL;
    if (!t->others || posix_memalign((void **)&t->shares, 64, (size_t)threads * sizeof *t->shares)) {
        free(t->others);
        free(t);
        return NULL;
    }
    pthread_mutex_init(&t->in_use, NULL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->wake, NULL);
    pthread_cond_init(&t->done, NULL);
    atomic_init(&t->generation, 0);
    atomic_init(&t->busy, 0);
    t->threads = 1;
    for (int i = 1; i < threads; i++) {
        start *s = malloc(sizeof *s);
        if (!s) break;
        *s = (start){t, i};
        if (pthread_create(&t->others[i], NULL, worker_main, s)) {
            free(s);
            break;
        }
        t->threads++; /* with fewer threads than asked for, the result is the same */
    }
    return t;
}

int nst_team_threads(const nst_team *t) { return t->threads; }

void nst_team_free(nst_team *t)
{
    if (!t) return;
    if (getpid() == t->process) {
        pthread_mutex_lock(&t->lock);
        atomic_store(&t->generation, -1);
        pthread_cond_broadcast(&t->wake);
        pthread_mutex_unlock(&t->lock);
        for (int i = 1; i < t->threads; i++) pthread_join(t->others[i], NULL);
    }
    pthread_mutex_destroy(&t->in_use);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->wake);
    pthread_cond_destroy(&t->done);
    free(t->shares);
    free(t->others);
    free(t);
}
