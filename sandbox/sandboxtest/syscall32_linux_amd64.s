#include "textflag.h"

// func syscall32(number uintptr) int
TEXT ·syscall32(SB), NOSPLIT, $0-16
	MOVQ number+0(FP), AX
	INT  $0x80
	MOVQ AX, ret+8(FP)
	RET
