#include <chimera.h>
#include <stdio.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <time.h>
struct s2{double a,b;}; struct s5{long v[5];}; struct s1{short x; char c;};
static __attribute__((noinline)) double vsum(const char*f,...){ va_list a; va_start(a,f); double r=0; for(;*f;f++) switch(*f){case 'i':r+=va_arg(a,int);break;case 'l':r+=va_arg(a,long);break;case 'd':r+=va_arg(a,double);break;case '2':{struct s2 s=va_arg(a,struct s2);r+=s.a*s.b;break;}case '5':{struct s5 s=va_arg(a,struct s5);r+=s.v[0]+s.v[4];break;}case '1':{struct s1 s=va_arg(a,struct s1);r+=s.x-s.c;break;}case 'p':r+=*va_arg(a,int*);} va_end(a); return r; }
static int myp(char*b,size_t n,const char*f,...){ va_list a,c; va_start(a,f); va_copy(c,a); int r=vsnprintf(0,0,f,a); r+=vsnprintf(b,n,f,c); va_end(a); va_end(c); return r; }
static int cmp(const void*a,const void*b){return *(int*)a-*(int*)b;}
int main(int c,char**v){ int q=9; char b[200]; printf("%.17g\n",vsum("ild25id1pd",1,2L,3.5,(struct s2){2,3},(struct s5){{1,2,3,4,5}},7,1e10,(struct s1){300,4},&q,-0.5));
 printf("%d %s\n",myp(b,sizeof b,"<%5d|%-8s|%08lx|%c|%.3e|%g|%Lf>",42,"hey",0xdeadbeefl,'Z',12345.678,0.1,(long double)2.25),b); int a[50]; for(int i=0;i<50;i++)a[i]=(i*37)%53; qsort(a,50,4,cmp); for(int i=0;i<50;i+=7)printf("%d ",a[i]); puts(""); char*m[20]; for(int i=0;i<20;i++){m[i]=malloc(100<<(i%10)); memset(m[i],i,100);} for(int i=0;i<20;i+=2)free(m[i]); m[0]=realloc(malloc(10),5000); printf("%f %f %f %a\n",sin(1.0),pow(2.5,3.5),strtod("3.14159e2",0),exp(1)); int x,y; double z; printf("%d",sscanf("12 abc 34.5","%d %*s %lf",&x,&z)); printf(" %d %g %s\n",x,z,getenv("NOPE")?"":"noenv"); time_t t=86400*365; struct tm*g=gmtime(&t); strftime(b,200,"%Y-%m-%d %a",g); puts(b); printf("argc %d\n",c); return 3; }
