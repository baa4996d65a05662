#include "injection.h"

#ifdef PRESENCE_INJECTION_POINTS

#include "server.h"

extern "C" {
#include <signal.h>
#include <unistd.h>

#include "postmaster/interrupt.h"
#include "storage/pmsignal.h"
}

namespace presence {

// What is to happen is the content of a file in the data directory, so that it needs no shared memory and no database, and
// outlives a crash. The first process to come by takes it, by renaming it.
void injection_point(const char *name)
{
    char file[MAXPGPATH], taken[MAXPGPATH], action[16] = "";
    snprintf(file, sizeof file, "presence_points/%s", name);
    snprintf(taken, sizeof taken, "%s.%d", file, MyProcPid);
    if (rename(file, taken) != 0)
        return;
    if (FILE *open = fopen(taken, "r")) {
        if (fgets(action, sizeof action, open) == nullptr)
            action[0] = '\0';
        (void)fclose(open);
    }
    ereport(LOG, (errmsg("came to point \"%s\", where it is to %s", name, action)));
    if (strcmp(action, "kill") == 0)
        (void)kill(MyProcPid, SIGKILL);
    if (strcmp(action, "fail") == 0)
        ereport(ERROR, (errmsg("failed at point \"%s\"", name)));
    while (access(taken, F_OK) == 0 && ShutdownRequestPending == 0) {
        CHECK_FOR_INTERRUPTS();
        if (!PostmasterIsAlive())
            _exit(1);
        pg_usleep(1000);
    }
}

}  // namespace presence

#endif
