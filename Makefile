# token_refresh: a PostgreSQL extension in C++ (PGXS).
#   make, make install, make installcheck   as for any extension
#   make test, make demo, make bench        from a fresh checkout, nothing prepared
EXTENSION = token_refresh
MODULE_big = token_refresh
OBJS = $(sort $(patsubst %.cpp,%.o,$(wildcard src/core/*.cpp src/pg/*.cpp)))
EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" token_refresh.control)
# The install script is put together from its parts; what is in sql itself leads from one version to the next.
FIRST_SCRIPT = sql/token_refresh--$(EXTVERSION).sql
DATA = $(filter-out $(FIRST_SCRIPT),$(sort $(wildcard sql/token_refresh--*.sql)))
DATA_built = $(FIRST_SCRIPT)

REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test

PG_CPPFLAGS = -Isrc
PG_CXXFLAGS = -std=c++20 -Wall -Wextra -Wno-register -Wno-volatile -Wno-unused-parameter -Wno-missing-field-initializers -MMD -MP
SHLIB_LINK = -lcurl -lcrypto -lpugixml -lstdc++ -Wl,--version-script=src/exports.map
EXTRA_CLEAN = build $(OBJS:.o=.d)

PG_CONFIG ?= pg_config
# Bitcode for inlining by JIT is of no use here, and would ask for clang.
override with_llvm = no

# These targets must work before the server's development files are installed.
STANDALONE = test demo bench unit deps
ifeq ($(filter-out $(STANDALONE),$(or $(MAKECMDGOALS),all)),)
.PHONY: $(STANDALONE)
else
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
-include $(OBJS:.o=.d)
$(FIRST_SCRIPT): $(sort $(wildcard sql/install/*.sql)) token_refresh.control
	cat $(filter %.sql,$^) > $@
token_refresh.so: src/exports.map
endif

deps:
	scripts/install-dependencies

unit: deps
	scripts/run-unit-tests

test:
	scripts/run-tests

demo:
	demo/run

bench:
	bench/run
