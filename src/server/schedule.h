// This database's job of pg_cron. The functions that users call are in schedule.cpp; what they schedule is in calls.cpp.
#pragma once

#include "server.h"

namespace presence {

// When the extension is dropped. As a superuser, because the job belongs to whoever owned the extension.
void remove_cron_job();

}  // namespace presence
