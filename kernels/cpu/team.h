/* A team of threads that shares the tasks of one job. */
#ifndef NST_TEAM_H
#define NST_TEAM_H

typedef struct nst_team nst_team;

/* One of the job's tasks. `worker` (0 .. threads-1) chooses private work space. What a task computes must not depend on
 * the worker, nor on the order of the tasks: so the same picture gives the same bits for any number of threads. */
typedef void nst_task(void *job, long task, int worker);

/* Run tasks 0 .. n-1 and return when all are done. */
void team_run(nst_team *team, long n, nst_task *task, void *job);

#endif
