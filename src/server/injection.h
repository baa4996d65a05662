// Points in the code at which a test holds, kills or fails the process that comes by. They are there only in a library built
// by "make INJECTION=1", which CONTRIBUTING.md explains; in any other they are nothing.
#pragma once

#ifdef PRESENCE_INJECTION_POINTS

namespace presence {

// Where nothing may fail, an error must not be asked for; a lock that others need must not be held.
void injection_point(const char *name);

}  // namespace presence

#define PRESENCE_POINT(name) presence::injection_point(name)
#else
#define PRESENCE_POINT(name) static_cast<void>(0)
#endif
