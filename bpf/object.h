/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declares programs, their maps and their parameters.
 *
 * The programs are compiled where the agent is built and loaded elsewhere, so the compiler
 * knows neither the maps nor the parameters, which each start chooses (table sizes, secrets).
 * It sees placeholders: constants that are recognised in the instructions, and that the
 * loader replaces. It cannot compute with them, hence the assembly.
 *
 * A declaration is compiled into a function of constants, which the builder reads
 * (podtally/kernel/builder.py) and leaves out. So the sizes are the compiler's own.
 *
 *   PROGRAM(name, type)                     before `int name(context)`; type is BPF_PROG_TYPE_*
 *   OPTIONAL_PROGRAM(name, type)            the same; a kernel that refuses it goes without
 *   MAP(name, type, key, value, entries, flags)
 *   MAP_OF_MAPS(name, type, key, inner, entries)
 *   RING_BUFFER(name, bytes)
 *   PARAMETER(name)                         an unsigned number, set by the loader
 *
 * `entries` and `bytes` may be SET_BY(parameter). Names have at most 15 characters, as in
 * the kernel.
 */
#pragma once
#include <linux/bpf.h>

/* What an instruction's 32-bit constant is a placeholder for; twelve bits of identity follow. */
#define PLACEHOLDER_MAP 0x6c790000
#define PLACEHOLDER_WHOLE 0x6c791000
#define PLACEHOLDER_LOW 0x6c792000
#define PLACEHOLDER_HIGH 0x6c793000
#define PLACEHOLDER_VALUE 0x6c794000
/* The upper half of a 64-bit one, and of nothing else that is compiled here. */
#define PLACEHOLDER_UPPER 0x7074616cULL

#define DESCRIBE(what, name, a, b, c, d, e, f, g)                                       \
	int describe_##what##_##name(void *context)                                     \
	{                                                                               \
		asm volatile("r0 = %0\n\tr0 = %1\n\tr0 = %2\n\tr0 = %3\n\tr0 = %4\n\t"  \
			     "r0 = %5\n\tr0 = %6"                                       \
			     :                                                          \
			     : "i"(a), "i"(b), "i"(c), "i"(d), "i"(e), "i"(f), "i"(g)); \
		return 0;                                                               \
	}                                                                               \
	_Static_assert(sizeof(#name) <= BPF_OBJ_NAME_LEN, "the kernel's names have 15 characters")

#define PROGRAM(name, type) DESCRIBE(program, name, 0, type, 0, 0, 0, 0, 0)
#define OPTIONAL_PROGRAM(name, type) DESCRIBE(program, name, 0, type, 1, 0, 0, 0, 0)

#define PARAMETER(name)                          \
	enum { PARAMETER_##name = __COUNTER__ }; \
	DESCRIBE(parameter, name, PARAMETER_##name, 0, 0, 0, 0, 0, 0)
#define SET_BY(parameter) (PLACEHOLDER_WHOLE | PARAMETER_##parameter)

#define MAP(name, type, key, value, entries, flags) \
	enum { MAP_##name = __COUNTER__ };          \
	typedef value value_of_##name;              \
	DESCRIBE(map, name, MAP_##name, type, sizeof(key), sizeof(value), entries, flags, 0)
#define MAP_OF_MAPS(name, type, key, inner, entries)                                \
	enum { MAP_##name = __COUNTER__ };                                          \
	typedef u32 value_of_##name;                                                \
	DESCRIBE(map, name, MAP_##name, type, sizeof(key), sizeof(u32), entries, 0, \
		 PLACEHOLDER_MAP | MAP_##inner)
#define RING_BUFFER(name, bytes)           \
	enum { MAP_##name = __COUNTER__ }; \
	DESCRIBE(map, name, MAP_##name, BPF_MAP_TYPE_RINGBUF, 0, 0, bytes, 0, 0)

/* The address of a map, as helpers take it. */
#define MAP_ADDRESS(name)                                                           \
	({                                                                          \
		void *map_address;                                                  \
		asm("%0 = %1 ll"                                                    \
		    : "=r"(map_address)                                             \
		    : "i"(PLACEHOLDER_UPPER << 32 | PLACEHOLDER_MAP | MAP_##name)); \
		map_address;                                                        \
	})

/* The only value of an array map of one, without a look-up. */
#define VALUE_OF(name)                                                                \
	({                                                                            \
		value_of_##name *map_value;                                           \
		asm("%0 = %1 ll"                                                      \
		    : "=r"(map_value)                                                 \
		    : "i"(PLACEHOLDER_UPPER << 32 | PLACEHOLDER_VALUE | MAP_##name)); \
		map_value;                                                            \
	})

/* A parameter of at most 31 bits. */
#define PARAMETER32(name)                                             \
	({                                                            \
		u64 parameter;                                        \
		asm("%0 = %1" : "=r"(parameter) : "i"(SET_BY(name))); \
		(u32) parameter;                                      \
	})
#define PARAMETER64(name)                                                                          \
	({                                                                                         \
		u64 parameter;                                                                     \
		asm("%0 = %1 ll" : "=r"(parameter) : "i"(PLACEHOLDER_UPPER << 32 | SET_BY(name))); \
		parameter;                                                                         \
	})

/* Computes with a parameter in one instruction. */
#define COMPUTED(value, operation, placeholder)                                 \
	({                                                                      \
		u64 computed = (value);                                         \
		asm("%0 " operation " %1" : "+r"(computed) : "i"(placeholder)); \
		computed;                                                       \
	})
#define AND_PARAMETER(value, name) COMPUTED(value, "&=", SET_BY(name))
#define SHIFT_BY_PARAMETER(value, name) COMPUTED(value, "<<=", SET_BY(name))

/* Modulo 2^32. A cast would cost two shifts; `lower` is 2^32 - 1, as the compiler must not know. */
#define SUM_32(value, placeholder, lower)                                                         \
	({                                                                                        \
		u64 sum_32 = (value);                                                             \
		asm("%0 += %1\n\t%0 &= %2" : "+r"(sum_32) : "i"(placeholder), "r"((u64)(lower))); \
		sum_32;                                                                           \
	})
#define ADD_LOW_HALF(value, name, lower) SUM_32(value, PLACEHOLDER_LOW | PARAMETER_##name, lower)
#define ADD_HIGH_HALF(value, name, lower) SUM_32(value, PLACEHOLDER_HIGH | PARAMETER_##name, lower)

/* The value under a key, of the map's own type; NULL where there is none. */
#define lookup(map, key)                                                                      \
	((value_of_##map *)((void *(*)(const void *, const void *))BPF_FUNC_map_lookup_elem)( \
		MAP_ADDRESS(map), (key)))
#define update(map, key, value, flags)                                  \
	(((long (*)(const void *, const void *, const value_of_##map *, \
		    u64))BPF_FUNC_map_update_elem)(MAP_ADDRESS(map), (key), (value), (flags)))
