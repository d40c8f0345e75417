# SPDX-License-Identifier: Apache-2.0
# Builds, installs and tests mod_xnat_balance. `make help` lists the targets.

APXS         ?= apxs
CLANG        ?= clang
PROVE        ?= prove
JOBS         ?= 2
FUZZ_SECONDS ?= 60
RUNS         ?= 3
B            := build

APXS_CC      := $(shell $(APXS) -q CC 2>/dev/null)
ifeq ($(origin CC),default)
CC           := $(or $(APXS_CC),gcc)
endif
CFLAGS       ?= $(or $(shell $(APXS) -q CFLAGS 2>/dev/null),-g -O2)
HTTPD_FLAGS  := $(shell $(APXS) -q EXTRA_CPPFLAGS 2>/dev/null) \
    $(addprefix -isystem ,$(shell $(APXS) -q INCLUDEDIR 2>/dev/null) \
                          $(shell $(APXS) -q APR_INCLUDEDIR 2>/dev/null))
LIBEXECDIR   ?= $(shell $(APXS) -q LIBEXECDIR)
SYSCONFDIR   ?= $(shell $(APXS) -q SYSCONFDIR)
SBINDIR      ?= $(shell $(APXS) -q SBINDIR)

# Warnings are errors where the tests run; a newer compiler's must not stop a user's build.
WERROR ?=
WARN := -Wall -Wextra -Wshadow -Wformat=2 $(WERROR)
BASE := $(WARN) -Isrc -MMD -MP -fPIC -fvisibility=hidden -pthread
# The core sees libc only: it is compiled without httpd's include paths, so a slip does not compile.
CORE := -std=c11 -D_GNU_SOURCE $(BASE)
GLUE := -std=gnu11 $(BASE) -I. $(HTTPD_FLAGS)
LIBS := -pthread -lm

# Flavours of the same sources, each in its own directory: plain is what gets installed.
SAN_plain :=
SAN_asan  := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
SAN_tsan  := -O1 -fno-omit-frame-pointer -fsanitize=thread

core_src := $(wildcard src/xb_*.c)
glue_src := mod_xnat_balance.c $(wildcard src/xnat_*.c)
core_obj  = $(patsubst src/%.c,$(B)/$(1)/core/%.o,$(core_src))
glue_obj  = $(patsubst %.c,$(B)/$(1)/glue/%.o,$(notdir $(glue_src)))

unit_src := $(wildcard t/unit/*_test.c)
unit_bin := $(patsubst t/unit/%.c,$(B)/unit/%,$(unit_src))
fuzz_src := $(wildcard t/fuzz/*_fuzz.c)
replay   := $(patsubst t/fuzz/%_fuzz.c,$(B)/replay/%,$(fuzz_src))
fuzzers  := $(patsubst t/fuzz/%_fuzz.c,$(B)/libfuzzer/%,$(fuzz_src))

all: $(B)/mod_xnat_balance.so

help:
	@echo 'make            build $(B)/mod_xnat_balance.so'
	@echo 'make install    module, configuration, xnat-balance-drain, below DESTDIR; then: a2enmod'
	@echo 'make uninstall  take them away again'
	@echo 'make check      get what is needed, build, run every test'
	@echo 'make demo       a day at an XNAT site in a minute, on real Tomcats (docs/demo.md)'
	@echo 'make demo-up / demo-down   start the same site and leave it running / end it'
	@echo 'make unit       C unit tests (ASan+UBSan, or TSan where the name says so)'
	@echo 'make fuzz-replay / fuzz   replay the corpora / fuzz each parser for FUZZ_SECONDS'
	@echo 'make tomcat     the real Tomcat of the tests, into $(B)/tomcat'
	@echo 'make sim        the policy in simulation: tables and plots; SEEDS=16 FULL=1 for all of it'
	@echo 'make model      check the model of the protocol with Spin'
	@echo 'make mutants    leave out each rule of the protocol: does a test notice?'
	@echo 'make bench      beside other balancers, on the wire (docs/benchmarks.md; RUNS=3)'
	@echo 'make bench-cost what the module costs beside bytraffic (docs/benchmarks.md); or one of'
	@echo '                bench-table, bench-mover, bench-instructions, bench-throughput'
	@echo 'make bench-rescue   1,000 sessions of a killed node, all their users at once'
	@echo 'make asan       the module with ASan+UBSan, for XB_ASAN=1 prove ...'
	@echo 'make clean      remove $(B)/'

# ---- the module

$(B)/mod_xnat_balance.so: $(call glue_obj,plain) $(call core_obj,plain)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -Wl,-z,relro,-z,now -o $@ $^ $(LIBS)

asan: $(B)/asan/mod_xnat_balance.so
$(B)/asan/mod_xnat_balance.so: $(call glue_obj,asan) $(call core_obj,asan)
	$(CC) -shared $(CFLAGS) $(SAN_asan) $(LDFLAGS) -o $@ $^ $(LIBS)

define flavour
$(B)/$(1)/core/%.o: src/%.c | have-cc
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) $$(SAN_$(1)) $$(CORE) -c -o $$@ $$<
$(B)/$(1)/glue/%.o: src/%.c | have-apxs
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) $$(SAN_$(1)) $$(GLUE) -c -o $$@ $$<
$(B)/$(1)/glue/%.o: %.c | have-apxs
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) $$(SAN_$(1)) $$(GLUE) -c -o $$@ $$<
endef
$(foreach f,plain asan tsan,$(eval $(call flavour,$(f))))

# Control builds without a rule of the move protocol (src/xb_rule.h): t/713-controls.t shows what some
# of them prevent, t/mutants that a test notices each. Only the files that know of the rules differ.
CONTROLS := 1 2 4 8 12 256
RULES    := $(shell sed -n 's/^ *XB_RULE_[A-Z0-9]* = \([0-9]*\).*/\1/p' src/xb_rule.h)
ruled    := $(shell grep -l xb_rule.h src/*.c)
control_core = $(patsubst src/%.c,$(B)/control/$(1)/%.o,$(filter src/xb_%,$(ruled))) \
    $(filter-out $(patsubst src/%.c,$(B)/plain/core/%.o,$(ruled)),$(call core_obj,plain))
control_glue = $(patsubst src/%.c,$(B)/control/$(1)/%.o,$(filter src/xnat_%,$(ruled))) \
    $(filter-out $(patsubst src/%.c,$(B)/plain/glue/%.o,$(ruled)),$(call glue_obj,plain))
control_so := $(CONTROLS:%=$(B)/control/%/mod_xnat_balance.so)

define control
$(B)/control/$(1)/xb_%.o: src/xb_%.c | have-cc
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) -DXB_LEAVE_OUT=$(1) $$(CORE) -c -o $$@ $$<
$(B)/control/$(1)/xnat_%.o: src/xnat_%.c | have-apxs
	@mkdir -p $$(@D)
	$$(CC) $$(CFLAGS) -DXB_LEAVE_OUT=$(1) $$(GLUE) -c -o $$@ $$<
$(B)/control/$(1)/mod_xnat_balance.so: $(call control_glue,$(1)) $(call control_core,$(1))
	$$(CC) -shared $$(CFLAGS) $$(LDFLAGS) -o $$@ $$^ $$(LIBS)
$(B)/control/$(1)/%_test: t/unit/%_test.c $(call control_core,$(1))
	$$(CC) $$(CFLAGS) $$(CORE) -It/unit -MF $$@.d -o $$@ $$(filter %.c %.o,$$^) $$(LIBS)
endef
$(foreach n,$(sort $(CONTROLS) $(RULES)),$(eval $(call control,$(n))))
controls: $(control_so) $(patsubst %,$(B)/%/mod_xnat_balance.so,layout checked idle)

# A module whose shared memory is of another layout: t/603-layout.t.
$(B)/layout/xnat_shm.o: src/xnat_shm.c | have-apxs
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DXNAT_LAYOUT=999u $(GLUE) -c -o $@ $<
$(B)/layout/mod_xnat_balance.so: $(B)/layout/xnat_shm.o \
    $(filter-out %/xnat_shm.o,$(call glue_obj,plain)) $(call core_obj,plain)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# A module for which a session is long idle after a second: t/441-idle-drain.t.
$(B)/idle/xnat_choose.o: src/xnat_choose.c | have-apxs
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -DACTIVE_US=1000000 $(GLUE) -c -o $@ $<
$(B)/idle/mod_xnat_balance.so: $(B)/idle/xnat_choose.o \
    $(filter-out %/xnat_choose.o,$(call glue_obj,plain)) $(call core_obj,plain)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# A module whose status page says whether the session table is valid: t/600-kill.t.
$(B)/checked/xnat_snapshot.o: t/lib/checked_snapshot.c | have-apxs
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(GLUE) -c -o $@ $<
$(B)/checked/mod_xnat_balance.so: $(B)/checked/xnat_snapshot.o \
    $(filter-out %/xnat_snapshot.o,$(call glue_obj,plain)) $(call core_obj,plain)
	$(CC) -shared $(CFLAGS) $(LDFLAGS) -Wl,-z,relro,-z,now -o $@ $^ $(LIBS)

# ---- install: files only; no service is started, stopped or reloaded

install: $(B)/mod_xnat_balance.so
	install -d '$(DESTDIR)$(LIBEXECDIR)' '$(DESTDIR)$(SYSCONFDIR)/mods-available' \
	    '$(DESTDIR)$(SBINDIR)'
	install -m 755 scripts/drain '$(DESTDIR)$(SBINDIR)/xnat-balance-drain'
	install -m 644 $< '$(DESTDIR)$(LIBEXECDIR)/'
	sed 's|/usr/lib/apache2/modules|$(LIBEXECDIR)|' config/xnat_balance.load \
	    >'$(DESTDIR)$(SYSCONFDIR)/mods-available/xnat_balance.load'
	install -m 644 config/xnat_balance.conf '$(DESTDIR)$(SYSCONFDIR)/mods-available/'

uninstall: | have-apxs
	rm -f '$(DESTDIR)$(LIBEXECDIR)/mod_xnat_balance.so'
	rm -f '$(DESTDIR)$(SBINDIR)/xnat-balance-drain'
	rm -f '$(DESTDIR)$(SYSCONFDIR)/mods-available/xnat_balance.load'
	rm -f '$(DESTDIR)$(SYSCONFDIR)/mods-available/xnat_balance.conf'

# ---- tests

check:
	scripts/deps check
	+$(MAKE) WERROR=-Werror all asan tests controls tomcat
	rm -f .prove
	$(PROVE) -j$(JOBS) --state=save -It/lib t/*.t $(sort $(unit_bin) $(replay)) || \
	    { [ $$? -eq 1 ] && echo '== what failed, once more and alone (docs/testing.md)' && \
	      $(PROVE) -v --state=failed,save -It/lib; }

tests: $(unit_bin) $(replay)

tomcat:
	t/tomcat/build

unit: $(unit_bin)
	$(PROVE) -j$(JOBS) $^

fuzz-replay: $(replay)
	$(PROVE) -j$(JOBS) $^

# Static patterns: of two implicit rules make would take whichever has its objects already.
$(filter %_tsan_test,$(unit_bin)): $(B)/unit/%: t/unit/%.c $(call core_obj,tsan)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN_tsan) $(CORE) -It/unit -MF $@.d -o $@ $(filter %.c %.o,$^) $(LIBS)

$(filter-out %_tsan_test,$(unit_bin)): $(B)/unit/%: t/unit/%.c $(call core_obj,asan)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN_asan) $(CORE) -It/unit -MF $@.d -o $@ $(filter %.c %.o,$^) $(LIBS)

$(B)/asan/replay.o: t/fuzz/replay.c | have-cc
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN_asan) $(CORE) -c -o $@ $<

$(B)/replay/%: t/fuzz/%_fuzz.c $(B)/asan/replay.o $(call core_obj,asan)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN_asan) $(CORE) -MF $@.d -o $@ \
	    $(filter %.c %.o,$^) $(LIBS)

$(B)/libfuzzer/%: t/fuzz/%_fuzz.c $(core_src) | have-clang
	@mkdir -p $(@D)
	$(CLANG) -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $(CORE) \
	    -MF $@.d -o $@ $(filter %.c,$^) $(LIBS)

# New inputs go below build/; the corpora of the project are only read.
fuzz: $(fuzzers)
	@for f in $^; do n=$${f##*/}; mkdir -p $(B)/fuzz/$$n t/fuzz/corpus/$$n; \
	    echo "== $$n: $(FUZZ_SECONDS) s"; \
	    $$f -max_total_time=$(FUZZ_SECONDS) -timeout=5 -max_len=8192 -print_final_stats=1 \
	        -artifact_prefix=$(B)/fuzz/$$n- $(B)/fuzz/$$n t/fuzz/corpus/$$n || exit 1; done

# The module's own policy and counters, unchanged, on a simulated clock. No fused multiply-add: figures
# are frozen to the last bit.
SIM := $(CORE) -O2 -ffp-contract=off -It/sim
$(B)/sim/%.o: t/sim/%.c | have-cc
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SIM) -c -o $@ $<
$(B)/sim/%.o: src/%.c | have-cc
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SIM) -c -o $@ $<
$(B)/sim/xb_sim: $(patsubst t/sim/%.c,$(B)/sim/%.o,$(wildcard t/sim/*.c)) \
    $(patsubst %,$(B)/sim/xb_%.o,policy member pace)
	$(CC) $(CFLAGS) -o $@ $^ $(LIBS)

sim: $(B)/sim/xb_sim
	t/sim/report $(if $(SEEDS),seeds=$(SEEDS)) $(if $(FULL),full)

model: | have-spin
	t/model/run

mutants: all tests
	t/mutants

# ---- measurements: not part of make check, and no pass or fail

bench-cost: bench-table bench-mover bench-instructions bench-throughput

bench-deps:
	scripts/deps bench

bench-instructions bench-throughput bench-mover: bench-%: all | bench-deps
	perl -It/lib t/bench/$*.pl

bench-rescue: all tomcat
	perl -It/lib t/bench/rescue.pl

bench-table: $(B)/table_bench
	$<

$(B)/table_bench: t/bench/table_bench.c $(call core_obj,plain)
	$(CC) $(CFLAGS) $(CORE) -MF $@.d -o $@ $(filter %.c %.o,$^) $(LIBS)

bench:
	scripts/deps wire
	+$(MAKE) all tomcat
	perl -It/lib t/bench/wire.pl runs=$(RUNS)

# ---- demo

demo demo-up:
	scripts/deps demo
	+$(MAKE) all tomcat
	scripts/demo $(patsubst demo-%,%,$(filter-out demo,$@))

demo-down:
	scripts/demo down

# ---- tools: what is missing is named with the package that brings it

need = command -v '$(1)' >/dev/null || \
    { echo '$(1) not found: apt-get install $(2)' >&2; exit 1; }
have-cc:
	@$(call need,$(CC),gcc)
have-apxs: have-cc
	@$(call need,$(APXS),apache2-dev)
have-clang:
	@$(call need,$(CLANG),clang)
have-spin:
	@$(call need,spin,spin)

# What the guards compile with: the flags of make itself, not a copy of them.
show-%:
	@echo '$($*)'

# The record of a running demo is in there.
clean:
	test ! -e $(B)/demo || scripts/demo down
	rm -rf $(B)

-include $(wildcard $(B)/*/*/*.d $(B)/*/*.d)
.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: all help asan controls install uninstall check tests tomcat unit fuzz-replay fuzz model \
    sim mutants bench bench-cost bench-deps bench-table bench-mover bench-instructions \
    bench-throughput bench-rescue clean demo demo-up demo-down have-cc have-apxs have-clang \
    have-spin
