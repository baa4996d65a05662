// This database's job of pg_cron: made, replaced, repaired and removed. What the job runs lives in calls.cpp.
#pragma once

#include "server.h"

namespace presence {

// After the extension was dropped; does nothing where there is no pg_cron or no job.
void remove_cron_job();
// The job names its database, which may have been renamed since. In a transaction.
void repair_cron_job();

}  // namespace presence
