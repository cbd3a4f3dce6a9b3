#include "textflag.h"

// func rawVfork(flags uintptr) (pid uintptr, errno syscall.Errno)
//
// Child and parent share the stack. The child's next calls overwrite the return address, so
// it waits in a register while the parent sleeps.
TEXT ·rawVfork(SB), NOSPLIT|NOFRAME, $0-24
	MOVQ flags+0(FP), DI
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVL $56, AX // clone
	POPQ R12
	SYSCALL
	PUSHQ R12
	CMPQ AX, $0xfffffffffffff001
	JCC  fail
	MOVQ AX, pid+8(FP)
	MOVQ $0, errno+16(FP)
	RET
fail:
	NEGQ AX
	MOVQ $-1, pid+8(FP)
	MOVQ AX, errno+16(FP)
	RET

// trampolineText is no function: it is the text of a program of its own, see trampoline.go. It may use
// nothing but registers and the stack that execve has left: argc, argv, a zero, envp, a zero.
TEXT ·trampolineText(SB), NOSPLIT|NOFRAME, $0
	MOVL $72, AX // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVL $3, DI
	MOVL $2, SI
	MOVL $1, DX
	SYSCALL
	TESTQ AX, AX
	JNE  again
	MOVQ 0(SP), BX
	PUSHQ $0
	MOVL $14, AX // rt_sigprocmask(SIG_SETMASK, none, NULL, 8)
	MOVL $2, DI
	MOVQ SP, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL
	POPQ AX
	MOVL $59, AX // execve(argv[0], argv+1, envp)
	MOVQ 8(SP), DI
	LEAQ 16(SP), SI
	LEAQ 16(SP)(BX*8), DX
	SYSCALL
	NEGQ AX
	PUSHQ AX
	MOVL $1, AX // write(report, the error, 4)
	MOVL $3, DI
	MOVQ SP, SI
	MOVL $4, DX
	SYSCALL
again: // without a report this is no first time
	MOVL $231, AX // exit_group(126)
	MOVL $126, DI
	SYSCALL
	INT $3

DATA ·trampolineCode(SB)/8, $·trampolineText(SB)
GLOBL ·trampolineCode(SB), RODATA, $8
