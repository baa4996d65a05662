# make, make install, make installcheck: PGXS, for the server that PG_CONFIG names.
# make demo, make check and the like install what is missing first, so this file must also work where no server is.

MODULE_big = presence
EXTENSION = presence
DATA = $(wildcard sql/presence--*.sql)

core_objects = $(patsubst %.cpp,%.o,$(wildcard src/core/*.cpp))
server_objects = $(patsubst %.cpp,%.o,$(wildcard src/server/*.cpp))
OBJS = $(core_objects) $(server_objects)

REGRESS = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
# The same whatever the server's locale is.
REGRESS_OPTS = --inputdir=test --encoding=UTF8 --no-locale

PG_CONFIG ?= pg_config
PG_CONFIG_FOUND := $(shell command -v $(PG_CONFIG) 2>/dev/null)

.DEFAULT_GOAL := all

# These bring their own server; PGXS, whose check only says that it is not supported, stays out of their way.
ifneq ($(filter demo check check-all prove-tests lint bench soak deb demo-web check-web,$(MAKECMDGOALS)),)
.PHONY: demo check check-all prove-tests lint bench soak deb demo-web check-web
demo check check-all prove-tests lint bench soak deb demo-web check-web:
	@scripts/$@
else ifneq ($(PG_CONFIG_FOUND),)
extension_version := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" presence.control)
server_includes := $(shell $(PG_CONFIG) --includedir-server)

# Server calls leave by longjmp, so C++ exceptions have no place here; see docs/design.md.
PG_CXXFLAGS = -std=c++20 -fno-exceptions -fno-rtti -fno-threadsafe-statics -fvisibility=hidden \
    -Wall -Wextra -Wshadow -Werror -isystem $(server_includes) \
    -DPRESENCE_VERSION=$(extension_version)
SHLIB_LINK += -lstdc++
# make check SANITIZE=undefined, or SANITIZE=address,undefined: see scripts/check.
ifdef SANITIZE
PG_CXXFLAGS += -fsanitize=$(SANITIZE) -fno-sanitize=vptr -fno-omit-frame-pointer
SHLIB_LINK += -fsanitize=$(SANITIZE)
endif
override with_llvm := no

EXTRA_CLEAN = presence_tail .built-with .built-with-points

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# The server's own header path comes after ours, as a system path: some versions' headers do not pass these warnings.
override CPPFLAGS := $(filter-out -I$(server_includes),$(CPPFLAGS))

# Objects made for another server, or with other flags, are made again.
built_for := $(shell $(PG_CONFIG) --version) $(server_includes) $(CXX) $(PG_CXXFLAGS)
.built-with: always
	@echo '$(built_for)' | cmp -s - $@ || echo '$(built_for)' >$@
.PHONY: always

# For scripts/lint.
compile-flags:
	@echo '$(PG_CXXFLAGS) $(CPPFLAGS)'
.PHONY: compile-flags

all: presence_tail
presence_tail: src/tools/presence_tail.cpp src/tools/client.h src/tools/top.h .built-with
	$(CXX) -std=c++20 -O2 -g -Wall -Wextra -Wshadow -Werror -I$(shell $(PG_CONFIG) --includedir) -o $@ $< \
	    -L$(shell $(PG_CONFIG) --libdir) -Wl,-rpath,$(shell $(PG_CONFIG) --libdir) -lpq

install: install-presence-tail
install-presence-tail: presence_tail
	$(MKDIR_P) '$(DESTDIR)$(bindir)'
	$(INSTALL_PROGRAM) presence_tail '$(DESTDIR)$(bindir)/presence_tail'
uninstall: uninstall-presence-tail
uninstall-presence-tail:
	rm -f '$(DESTDIR)$(bindir)/presence_tail'
.PHONY: install-presence-tail uninstall-presence-tail

$(OBJS): $(wildcard src/core/*.h src/server/*.h) .built-with

# For tests of bad moments: see src/server/injection.h. No other objects differ.
objects_with_points := $(patsubst %.cpp,%.o,$(shell grep -l '"injection.h"' src/server/*.cpp))
$(objects_with_points): override CXXFLAGS += $(if $(INJECTION),-DPRESENCE_INJECTION_POINTS)
$(objects_with_points): .built-with-points
.built-with-points: always
	@echo '$(INJECTION)' | cmp -s - $@ || echo '$(INJECTION)' >$@
objects-with-points:
	@echo '$(objects_with_points)'
.PHONY: objects-with-points
endif
