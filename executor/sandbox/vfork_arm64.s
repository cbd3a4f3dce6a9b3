#include "textflag.h"

// func rawVfork(flags uintptr) (pid uintptr, errno syscall.Errno)
//
// The return address is in a register anyhow, and without a frame it stays there.
TEXT ·rawVfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVD flags+0(FP), R0
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $220, R8 // clone
	SVC
	CMN  $4095, R0
	BCS  fail
	MOVD R0, pid+8(FP)
	MOVD ZR, errno+16(FP)
	RET
fail:
	NEG  R0, R0
	MOVD $-1, R1
	MOVD R1, pid+8(FP)
	MOVD R0, errno+16(FP)
	RET

// trampolineText is no function: it is the text of a program of its own, see trampoline.go. It may use
// nothing but registers and the stack that execve has left: argc, argv, a zero, envp, a zero.
TEXT ·trampolineText(SB), NOSPLIT|NOFRAME, $0
	MOVD $3, R0 // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVD $2, R1
	MOVD $1, R2
	MOVD $25, R8
	SVC
	CBNZ R0, again
	MOVD RSP, R19
	SUB  $16, RSP
	MOVD RSP, R20
	MOVD ZR, 0(R20)
	MOVD $2, R0 // rt_sigprocmask(SIG_SETMASK, none, NULL, 8)
	MOVD R20, R1
	MOVD ZR, R2
	MOVD $8, R3
	MOVD $135, R8
	SVC
	MOVD 0(R19), R3
	MOVD 8(R19), R0 // execve(argv[0], argv+1, envp)
	ADD  $16, R19, R1
	ADD  R3<<3, R1, R2
	MOVD $221, R8
	SVC
	NEG  R0, R0
	MOVD R0, 0(R20)
	MOVD $3, R0 // write(report, the error, 4)
	MOVD R20, R1
	MOVD $4, R2
	MOVD $64, R8
	SVC
again: // without a report this is no first time
	MOVD $126, R0 // exit_group(126)
	MOVD $94, R8
	SVC
	BRK

DATA ·trampolineCode(SB)/8, $·trampolineText(SB)
GLOBL ·trampolineCode(SB), RODATA, $8
