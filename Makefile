# maru: one binary and one library. `make help` lists the targets; docs/MAP.md explains the folders.
# BUILD=folder CC=gcc|clang SAN=address,undefined|thread PREFIX=/usr/local
CC      ?= gcc
BUILD   ?= build
PREFIX  ?= /usr/local
SAN     ?=
V       ?=
Q       := $(if $(V),,@)
ifeq ($(origin CC),default)
CC      := gcc
endif

PKGS    := sqlite3 jansson libutf8proc libpcre2-8 libxml-2.0 libzip libsodium libseccomp libedit
PKG_CF  := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LD  := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -lmd4c -lstemmer
OPT     ?= -O2
CFLAGS  := -std=gnu11 $(OPT) -g -Wall -Wextra -Werror -Wshadow -Wvla -Wno-missing-field-initializers -ffp-contract=off \
           -fno-math-errno -Wno-psabi -D_GNU_SOURCE -pthread -Isrc -Iinclude $(PKG_CF) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all)
LDFLAGS := -pthread $(if $(SAN),-fsanitize=$(SAN))
LDLIBS  := $(PKG_LD) -lm

AVX2    := -mavx2 -mfma -mf16c -mbmi2
AVX512  := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx2 -mfma -mf16c -mbmi2 -mprefer-vector-width=512
ISAS    := generic avx2 avx512
FLAGS_generic :=
FLAGS_avx2    := $(AVX2)
FLAGS_avx512  := $(AVX512)

# tensor/cpu/body_*.c: one source, one object for each instruction set; *_avx2.c and *_avx512.c: intrinsics, their own flags
BODIES  := $(wildcard src/tensor/cpu/body_*.c)
KERN2   := $(wildcard src/tensor/cpu/*_avx2.c)
KERN512 := $(wildcard src/tensor/cpu/*_avx512.c)
PLAIN   := $(filter-out $(BODIES) $(KERN2) $(KERN512),$(wildcard src/*/*.c src/*/*/*.c))
LIB_SRC := $(filter-out src/cli/%,$(PLAIN))
CLI_SRC := $(filter src/cli/%,$(PLAIN))
obj      = $(patsubst %.c,$(BUILD)/%.o,$(1))
BODY_O  := $(foreach i,$(ISAS),$(patsubst %.c,$(BUILD)/%.$(i).o,$(BODIES)))
LIB_O   := $(call obj,$(LIB_SRC) $(KERN2) $(KERN512)) $(BODY_O)
CLI_O   := $(call obj,$(CLI_SRC))
TESTS   := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/*/test_*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCHES := $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/bench_*.c))

.PHONY: all deps demo check test bench fuzz libs install clean help floors size format
all: $(BUILD)/maru

help:
	@echo 'make            build/maru, the one binary'
	@echo 'make demo       install what is missing, build, fetch two small models, ask the sample documents'
	@echo 'make check      build and run every test (SAN=address,undefined for sanitizers)'
	@echo 'make bench      measure against this machine; make fuzz: the parsers, longer; make install PREFIX=...'

$(BUILD)/maru: $(CLI_O) $(BUILD)/libmaru.a
	@echo '  LD   $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(BUILD)/libmaru.a: $(LIB_O)
	@rm -f $@
	$(Q)ar rcs $@ $^

$(BUILD)/%_avx2.o: %_avx2.c | .deps-ok
	@mkdir -p $(@D)
	@echo '  CC   $<'
	$(Q)$(CC) $(CFLAGS) -O3 $(AVX2) -MMD -MP -c -o $@ $<
$(BUILD)/%_avx512.o: %_avx512.c | .deps-ok
	@mkdir -p $(@D)
	@echo '  CC   $<'
	$(Q)$(CC) $(CFLAGS) -O3 $(AVX512) -MMD -MP -c -o $@ $<
define body_rule
$(BUILD)/%.$(1).o: %.c | .deps-ok
	@mkdir -p $$(@D)
	@echo '  CC   $$< ($(1))'
	$$(Q)$$(CC) $$(CFLAGS) -O3 -Wno-psabi $$(FLAGS_$(1)) -DISA=$(1) -DISA_$(1)=1 -MMD -MP -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call body_rule,$(i))))
$(BUILD)/%.o: %.c | .deps-ok
	@mkdir -p $(@D)
	@echo '  CC   $<'
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# what the build and the demo need from Debian; asked for once, when something is missing
# (included, so that make starts anew after installing and asks pkg-config again)
deps: .deps-ok
.deps-ok: tools/deps.sh
	@tools/deps.sh && touch $@

# one list of op cases, for the test and the bench
$(BUILD)/tests/tensor/test_ops $(BUILD)/bench/bench_ops: $(addprefix $(BUILD)/tests/tensor/,op_cases.o op_leaves.o ref_run.o)
$(BUILD)/tests/tensor/test_plan $(BUILD)/tests/tensor/test_grad_kernels: $(BUILD)/tests/tensor/ref_run.o
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(BUILD)/libmaru.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -lcmocka
$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BUILD)/libmaru.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/driver.o $(BUILD)/libmaru.a
	@mkdir -p $(@D)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
.SECONDARY:

check: floors $(BUILD)/maru $(TESTS) $(FUZZERS)
	@BUILD=$(BUILD) tools/check.sh
test: check
demo: $(BUILD)/maru
	@BUILD=$(BUILD) tools/demo.sh
bench: $(BUILD)/maru $(BENCHES)
	@BUILD=$(BUILD) bench/run.sh
libs: # what a program that links libmaru.a needs besides
	@echo $(PKG_LD)
fuzz: $(FUZZERS)
	@BUILD=$(BUILD) tools/fuzz.sh
floors:
	@tools/floors.sh
size:
	@tools/size.sh
format:
	clang-format -i $$(git ls-files 'src/*.c' 'src/*.h' 'tests/*.c' 'bench/*.c')
# the archive for others: one object in which only maru_* can be seen, so that names inside cannot clash with a program's own
$(BUILD)/public/libmaru.a: $(BUILD)/libmaru.a
	@mkdir -p $(@D)
	$(Q)$(LD) -r --whole-archive -o $(BUILD)/public/maru.o $<
	$(Q)objcopy --wildcard --keep-global-symbol='maru_*' $(BUILD)/public/maru.o
	@rm -f $@
	$(Q)ar rcs $@ $(BUILD)/public/maru.o
install: $(BUILD)/maru $(BUILD)/public/libmaru.a
	install -Dm755 $(BUILD)/maru $(DESTDIR)$(PREFIX)/bin/maru
	install -Dm644 $(BUILD)/public/libmaru.a $(DESTDIR)$(PREFIX)/lib/libmaru.a
	install -Dm644 include/maru.h $(DESTDIR)$(PREFIX)/include/maru.h
clean:
	rm -rf $(BUILD)

ifneq ($(filter-out help clean floors size format,$(or $(MAKECMDGOALS),all)),)
include .deps-ok
endif
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
