// What runs without a Go runtime around it: the handlers of signals, and the program that
// this process becomes when its command runs. See waiter.go.

#include "textflag.h"

#define SYS_read 0
#define SYS_write 1
#define SYS_rt_sigreturn 15
#define SYS_exit 60
#define SYS_wait4 61
#define SYS_rt_sigtimedwait 128
#define SYS_prctl 157
#define SYS_exit_group 231
#define SYS_pidfd_send_signal 424

#define PR_SET_NAME 15
#define WNOHANG 1
#define EINTR 4
#define SIGPIPE 13
#define SIGCHLD 17
#define SIGURG 23

DATA ·entry+0(SB)/8, $onSignal<>(SB)
DATA ·entry+8(SB)/8, $onFault<>(SB)
DATA ·entry+16(SB)/8, $endThread<>(SB)
DATA ·entry+24(SB)/8, $restore<>(SB)
DATA ·entry+32(SB)/8, $waiter<>(SB)
GLOBL ·entry(SB), NOPTR|RODATA, $40

// A handler: writes the signal's number, the first byte of its siginfo_t, to the pipe. It
// must not wait, and what it changes is restored.
TEXT onSignal<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $SYS_write, AX
	MOVL ·signalPipe(SB), DI
	MOVL $1, DX
	SYSCALL
	RET

// A handler: what the kernel says of an instruction of this program (si_code > 0) is for
// the Go runtime.
TEXT onFault<>(SB), NOSPLIT|NOFRAME, $0
	CMPL 8(SI), $0
	JGT fault
	JMP onSignal<>(SB)
fault:
	MOVQ ·runtimeHandler(SB), AX
	JMP AX

// A handler: ends the thread that it is called on.
TEXT endThread<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $SYS_exit, AX
	XORL DI, DI
	SYSCALL
	UNDEF

// Where handlers return to.
TEXT restore<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $SYS_rt_sigreturn, AX
	SYSCALL
	UNDEF

// func waitHere(p *waiterParameters)
TEXT ·waitHere(SB), NOSPLIT|NOFRAME, $0-8
	MOVQ p+0(FP), BX
	JMP waiter<>(SB)

// The program. It is copied, so it refers to nothing outside of itself but its parameters:
// those in BX, or, after an execve, when all registers are 0, those before it. All signals
// are blocked, so the stack below SP is its own.
//
//	BX   parameters: command, pidfd, status, pipe, name (see waiterParameters)
//	R12  0: a signal from the pipe; 8: wait status; 16: set of signals; to 48: digits
TEXT waiter<>(SB), NOSPLIT|NOFRAME, $0
	TESTQ BX, BX
	JNZ named
	MOVQ $0x4000B0, BX // waiterAddress + the length of its headers
named:
	LEAQ -64(SP), R12
	MOVQ $-1, AX
	MOVQ AX, 16(R12)
	MOVL $SYS_prctl, AX
	MOVL $PR_SET_NAME, DI
	LEAQ 16(BX), SI
	SYSCALL

reap: // everything that has ended
	MOVL $SYS_wait4, AX
	MOVQ $-1, DI
	LEAQ 8(R12), SI
	MOVL $WNOHANG, DX
	XORL R10, R10
	SYSCALL
	CMPQ AX, $-EINTR
	JEQ reap
	TESTQ AX, AX
	JLE next
	CMPL AX, 0(BX)
	JEQ ended
	JMP reap

next: // first those signals that came before all were blocked
	MOVL $SYS_read, AX
	MOVL 12(BX), DI
	MOVQ R12, SI
	MOVL $1, DX
	SYSCALL
	CMPQ AX, $1
	JNE await
	MOVBLZX 0(R12), SI
	JMP forward
await:
	MOVL $SYS_rt_sigtimedwait, AX
	LEAQ 16(R12), DI
	XORL SI, SI
	XORL DX, DX
	MOVL $8, R10
	SYSCALL
	TESTQ AX, AX
	JLE next
	MOVQ AX, SI
forward:
	CMPL SI, $SIGCHLD
	JEQ reap
	CMPL SI, $SIGURG
	JEQ next
	CMPL SI, $SIGPIPE
	JEQ next
	MOVL $SYS_pidfd_send_signal, AX
	MOVL 4(BX), DI
	XORL DX, DX
	XORL R10, R10
	SYSCALL
	JMP next

ended: // the command: its wait status in decimal, digits from the last one on
	MOVL 8(R12), R8
	MOVL R8, AX
	LEAQ 48(R12), SI
	MOVL $10, CX
digit:
	XORL DX, DX
	DIVL CX
	ADDL $'0', DX
	DECQ SI
	MOVB DX, (SI)
	TESTL AX, AX
	JNZ digit
	MOVL $SYS_write, AX
	MOVL 8(BX), DI
	LEAQ 48(R12), DX
	SUBQ SI, DX
	SYSCALL

	// The exit code of a shell: the command's, or 128 + its signal.
	MOVL R8, DI
	ANDL $0x7f, DI
	JNZ signaled
	MOVL R8, DI
	SHRL $8, DI
	ANDL $0xff, DI
	JMP exit
signaled:
	ADDL $128, DI
exit:
	MOVL $SYS_exit_group, AX
	SYSCALL
	UNDEF
